"""Makes the engines that the configuration asks for."""

from __future__ import annotations

from daemon.config import Config
from daemon.engines import Engine
from daemon.engines.attached import AttachedEngine, Attachment
from daemon.engines.llamacpp import LlamaCppEngine
from daemon.engines.warm import WarmModels


def build_engines(config: Config, warm: WarmModels) -> list[Engine]:
    """One for each model file, and one for the attached model server; `warm` shares the memory out."""
    engines: list[Engine] = [
        LlamaCppEngine(model.name, model.path, slots=config.engine_slots, warm=warm)
        for model in config.models
    ]
    if config.attached_url is not None:
        engines.append(AttachedEngine(attachment(config)))
    return engines


def attachment(config: Config) -> Attachment:
    """Where the attached model server is, which there must be."""
    assert config.attached_url is not None
    return Attachment(
        url=config.attached_url,
        api_key=config.attached_api_key,
        slots=config.attached_slots,
        aliases=dict(config.aliases),
        image_models=config.attached_image_models,
    )
