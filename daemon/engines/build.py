"""Creates the engines that the configuration asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence

from daemon.config.config import Config, ModelFile
from daemon.engines import Engine
from daemon.engines.attached import AttachedEngine, Attachment
from daemon.engines.container_spec import ModelServerSpec
from daemon.engines.llamacpp import LlamaCppEngine
from daemon.engines.warm import WarmModels
from daemon.runners.choose import owner_of


def model_engine(
    config: Config, model: ModelFile, warm: WarmModels, visible_gpus: Callable[[], Sequence[str] | None]
) -> Engine:
    """The engine of one model file; `warm` shares the memory out. `visible_gpus`: None for all."""
    return LlamaCppEngine(
        model.name,
        model.path,
        slots=config.engine_slots,
        warm=warm,
        environment=config.engine_environment,
        visible_gpus=visible_gpus,
        embeds=model.embeds,
    )


def container_engines(
    config: Config,
    warm: WarmModels,
    gpus: Callable[[], Sequence[str]],
    kept_gpus: Callable[[], Collection[str]],
) -> list[Engine]:
    """The engines of the models that are served in containers.

    `gpus`: those that may be used now; `kept_gpus`: those that work and that the owner keeps.
    """
    if not config.engine_models:
        return []
    from daemon.engines.container import ContainerEngine
    from daemon.engines.server_container import ModelServerHost

    folder = config.state_dir / "engines"
    place = ModelServerHost(config.container_socket, owner_of(config.state_dir), folder, gpus, kept_gpus)
    return [ContainerEngine(order(config, model), place, warm=warm) for model in config.engine_models]


def order(config: Config, model: ModelFile) -> ModelServerSpec:
    """How a model is to be served in a container."""
    return ModelServerSpec(
        name=model.name,
        path=model.path,
        settings=config.engine,
        # The daemon must be able to use the socket that the server makes. Root is; anybody
        # else only where the server is the same user.
        user=config.containers.user if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}",
        slots=config.engine_slots,
        image_bytes=config.containers.image_bytes,
    )


def attached_engines(config: Config) -> list[Engine]:
    """The engine of the attached model server, if one is set."""
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
