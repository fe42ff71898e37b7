"""Makes the engines that the configuration asks for."""

from __future__ import annotations

from daemon.config import Config, ModelFile
from daemon.engines import Engine
from daemon.engines.attached import AttachedEngine, Attachment
from daemon.engines.llamacpp import LlamaCppEngine
from daemon.engines.warm import WarmModels


def model_engine(config: Config, model: ModelFile, warm: WarmModels) -> Engine:
    """The engine of one model file; `warm` shares the memory out."""
    return LlamaCppEngine(model.name, model.path, slots=config.engine_slots, warm=warm)


def attached_engines(config: Config) -> list[Engine]:
    """The engine of the attached model server, where there is one."""
    return [AttachedEngine(attachment(config))] if config.attached_url is not None else []


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
