"""Applies changed settings to a running daemon: models, attached server, the provider's own rules, log.

What runs, runs on. It must not read settings itself, nor know how engines work;
what can change only with a new process is named in the log and left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Protocol

from daemon.config.config import Config, ConfigError, ModelFile
from daemon.machine.policy import Rules
from daemon.runners import Runner

logger = logging.getLogger(__name__)

# What the engine of the attached model server is created from: another one takes its place.
ATTACHED = {"attached_url", "attached_api_key", "attached_slots", "attached_image_models", "aliases"}

# The fields that change while the daemon runs; `path` is where the others were read.
LIVE = {"models", "rules", "log_level", "update_url", "update_public_key", "path", *ATTACHED}


class Reconfigurable(Protocol):
    """What serves with engines by rules."""

    def reconfigure(self, engines: Sequence[Runner], rules: Rules) -> None:
        """Serves with these from now on."""
        ...


class Reloader:
    """The settings in force, and the engines that were created from them."""

    def __init__(
        self,
        config: Config,
        make_engine: Callable[[ModelFile], Runner],
        others: Sequence[Runner] = (),
        make_attached: Callable[[Config], Sequence[Runner]] = lambda config: (),
    ) -> None:
        """`others`: what serves beside the engines of the models and of the attached model server."""
        self._config = config
        self._others = list(others)
        self._make_engine = make_engine
        self._make_attached = make_attached
        self._attached = make_attached(config)
        self._engines = {model: make_engine(model) for model in config.models}

    @property
    def engines(self) -> list[Runner]:
        """One for each model, that of the attached model server, and the others."""
        return [*self._engines.values(), *self._attached, *self._others]

    def add(self, daemon: Reconfigurable, engine: Runner) -> None:
        """Serves with one more engine, which was not there at the start."""
        self._others.append(engine)
        daemon.reconfigure(self.engines, self._config.rules)

    def reload(self, daemon: Reconfigurable, load: Callable[[], Config]) -> None:
        """Reads the settings again. Unusable settings change nothing and are reported in the log."""
        try:
            config = load()
            self._check(config)
        except ConfigError as error:
            logger.error("the settings were not reloaded, the old ones stay: %s", error)
            return
        changed = _changed(self._config, config)
        if ATTACHED.intersection(changed) and (self._config.attached_url or config.attached_url):
            if self._config.attached_url:
                # Its owner may want the GPUs back (DCP_YIELD_TO_OWNER), which it would go on to use.
                logger.info("the attached model server as it was set leaves with its last job")
            self._attached = self._make_attached(config)
        if fixed := [name for name in changed if name not in LIVE]:
            logger.warning("needs a restart to change: %s", ", ".join(fixed))
        logging.getLogger().setLevel(config.log_level.upper())
        self._engines = {
            model: self._engines.get(model) or self._make_engine(model) for model in config.models
        }
        daemon.reconfigure(self.engines, config.rules)
        logger.info("settings reloaded models=%d", len(self._engines))
        self._config = replace(self._config, **{name: getattr(config, name) for name in LIVE})

    def _check(self, config: Config) -> None:
        if not config.models and not config.attached_url and not self._others:
            raise ConfigError("there would be no model to serve")
        for model in config.models:
            if not model.path.is_file():
                raise ConfigError(f"model {model.name}: {model.path} is not a file")


def _changed(old: Config, new: Config) -> list[str]:
    return [field.name for field in fields(Config) if getattr(old, field.name) != getattr(new, field.name)]
