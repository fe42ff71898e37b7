"""`dcp-daemon register`: makes this machine a provider, keeps its key, writes its file of settings.

What is missing is asked for in a terminal. It must not know the wire beyond one
request; the key is stored, never printed. Nothing is sent before all is known to
be writable, since a registration cannot be taken back.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Mapping

from dcp.v1 import providers_pb2

from daemon import link
from daemon.cli import model_servers
from daemon.cli.questions import NoAnswerError, Questions, missing_flags
from daemon.cli.server_question import ask_for_server, checked
from daemon.config import text as config_text
from daemon.config.config import Config, ConfigError, config_path, from_env, load
from daemon.config.encoding import decoded
from daemon.config.identity import Identity, IdentityError, identity_path, save
from daemon.machine.gpus.none import os_info
from daemon.machine.gpus.watched import detect

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Registers and stores identity and settings; returns a message for the person.

    Raises IdentityError, ConfigError and RegistrationError.
    """
    questions = Questions(sys.stdin.isatty())
    try:
        return _Registration(arguments, environ, questions).run()
    except NoAnswerError as error:
        raise IdentityError(f"{error}; nothing was registered") from None


class _Registration:
    def __init__(
        self, arguments: argparse.Namespace, environ: Mapping[str, str], questions: Questions
    ) -> None:
        self._given = arguments
        self._questions = questions
        self._environ = dict(environ) | _settings_of(arguments)
        self._path = config_path(environ, arguments.config)

    def run(self) -> str:
        fields = [("--name", self._given.name), ("--email", self._given.email)]
        if not self._questions.is_terminal and (answer := missing_flags(fields)):
            raise IdentityError(answer)
        config = self._settle_config()
        path = identity_path(config.state_dir)
        if path.exists() and not self._given.force:
            raise IdentityError(
                f"{path} exists: this machine is registered; --force registers a new provider"
            )
        text = config_text.render(config, self._path, self._environ)
        writes = self._may_write(text)
        identity = self._register(config)
        stored = save(config.state_dir, identity)
        answer = (
            f"registered provider {identity.provider_id} with {config.server}; its key is stored in {stored}"
        )
        if not writes:
            return answer
        # It has no secrets, and the service's user must read what root wrote.
        config_text.write(self._path, text, mode=0o644)
        text = "is not saved there, as others can read it: set it where dcp-daemon run starts"
        unsaved = [name for name in config_text.SECRETS if self._environ.get(name)]
        note = "".join(f"\n{name} {text}" for name in unsaved)
        return f"{answer}\nits settings are in {self._path}{note}"

    # --- settings ---

    def _settle_config(self) -> Config:
        """The configuration by flags, environment, file and, in a terminal, answers."""
        if self._questions.is_terminal and not self._path.exists():
            ask_for_server(self._questions, self._environ)
        config = load(self._environ, self._given.config, must_exist=False)
        if self._questions.is_terminal and not config.models:
            if found := _already_there(config):
                print(f"  no model is asked for: there is {found}")  # noqa: T201
            else:
                self._ask_for_models()
                config = load(self._environ, self._given.config, must_exist=False)
        return config

    def _ask_for_models(self) -> None:
        found = model_servers.find(self._environ)
        if found is not None and found.models:
            names = ", ".join(found.models[:10])
            question = f"Ollama answers at {found.url} with {names}: serve its models?"
            if self._questions.agree(question, usually=True):
                self._environ["DCP_ATTACHED_URL"] = found.url
                return
        question = "Model to serve, as public/name=FILE.gguf, or the http:// address of a model server"
        answer = self._questions.ask(question, self._checks_model)
        self._environ["DCP_ATTACHED_URL" if _is_address(answer) else "DCP_MODELS"] = answer

    def _checks_model(self, text: str) -> str:
        if _is_address(text):
            return checked("DCP_ATTACHED_URL", text, self._environ)
        checked("DCP_MODELS", text, self._environ)
        for model in from_env({"DCP_MODELS": text}).models:
            if not model.path.is_file():
                raise ValueError(f"{model.path} is not a file")
        return text

    def _may_write(self, text: str) -> bool:
        """Whether the file of settings is to be written; decided, and tried, before anything is sent."""
        existing = decoded(self._path.read_bytes()) if self._path.exists() else None
        if existing is not None and config_text.same(existing, text):
            return False
        if existing is not None and not self._given.force:
            question = f"{self._path} exists and says something else: replace it?"
            if not self._questions.is_terminal:
                raise ConfigError(f"{self._path} exists and says something else: --force replaces it")
            if not self._questions.agree(question):
                return False
        config_text.check_writable(self._path)
        return True

    # --- the provider ---

    def _register(self, config: Config) -> Identity:
        request = providers_pb2.RegisterProviderRequest(
            phone=self._given.phone or "",
            gpu_model=self._given.gpu_model or _gpu_model(config.engine_environment),
            os=os_info()[:100],
        )
        server = link.ServerAddress(config.server, config.tls_ca)
        while True:
            self._fill(request)
            try:
                response = asyncio.run(link.register(server, request))
                return Identity(response.provider_id, response.api_key, config.server)
            except link.RegistrationError as error:
                # Asked for again only where all was asked for, and the server took no offence at us.
                if not self._questions.is_terminal or not error.is_about_fields:
                    raise
                print(f"  {error}")  # noqa: T201
                self._given.name = self._given.email = self._given.phone = None

    def _fill(self, request: providers_pb2.RegisterProviderRequest) -> None:
        ask = self._questions.ask
        request.name = self._given.name or ask("Name that renters see", _name, request.name or "My node")
        request.email = self._given.email or ask("E-mail address", _email, request.email)
        if self._questions.is_terminal and self._given.phone is None:
            answer = ask("Telephone, such as +966500000000; - for none", _phone, request.phone or "-")
            request.phone = answer.removeprefix("-")


def _settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    """What the flags set, as the environment would."""
    settings = {"DCP_SERVER": arguments.server, "DCP_TLS_CA": arguments.tls_ca}
    if arguments.model:
        settings["DCP_MODELS"] = ",".join(arguments.model)
    if arguments.insecure:
        settings["DCP_INSECURE"] = "true"
    return {name: text for name, text in settings.items() if text}


def _already_there(config: Config) -> str:
    """What serves jobs without a model file, for a person; empty if nothing does."""
    sources = {
        "an attached model server": config.attached_url or "",
        "models in containers": ", ".join(model.name for model in config.engine_models),
        "container images": ", ".join(config.containers.images),
    }
    return "; ".join(f"{name} ({text})" for name, text in sources.items() if text)


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _name(text: str) -> str:
    if not 0 < len(text) <= 200:
        raise ValueError("a name has 1 to 200 characters")
    return text


def _email(text: str) -> str:
    if not _EMAIL.fullmatch(text) or len(text) > 254:
        raise ValueError(f"{text!r} is not an e-mail address, such as me@example.com")
    return text


def _phone(text: str) -> str:
    if text != "-" and not re.fullmatch(r"\+[\d -]{6,30}", text):
        raise ValueError("a telephone number starts with + and the country, such as +966500000000")
    return text


def _gpu_model(environment: Mapping[str, str]) -> str:
    gpus = detect(environment)
    try:
        return gpus.read().gpu_name
    finally:
        gpus.close()
