"""ModelService at the wire."""

from __future__ import annotations

from decimal import Decimal

from dcp.v1 import jobs_pb2, models_pb2_grpc, options_pb2
from dcp.v1 import models_pb2 as pb

from common.nearest import did_you_mean
from server.domain import dollars
from server.domain.errors import DomainError, Reason
from server.domain.jobs import JobType
from server.domain.pricing import Price, TokenPrice
from server.rpc import convert
from server.rpc.context import Context
from server.services.catalogue import Catalogue, Listed

# What a job may set beside its text.
_PARAMETERS = (
    *("temperature", "top_p", "max_tokens", "stop", "seed"),
    *("presence_penalty", "frequency_penalty", "response_format"),
)
_OUTPUTS = {JobType.LLM_INFERENCE: "text", JobType.EMBEDDINGS: "embeddings"}
_MAX_TOKENS = int(
    jobs_pb2.JobParams.DESCRIPTOR.fields_by_name["max_tokens"]
    .GetOptions()
    .Extensions[options_pb2.field]
    .maximum
)


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        rate = self._catalogue.sar_per_usd
        return pb.ListModelsResponse(
            object="list", data=[_entry(each, rate) for each in await self._catalogue.listed()]
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.ServedModelEntry:
        name, listed = request.model.strip(), await self._catalogue.listed()
        for each in listed:
            if each.model.name == name:
                return _entry(each, self._catalogue.sar_per_usd)
        meant = did_you_mean(name, [each.model.name for each in listed], "see /v1/models.")
        raise DomainError(
            Reason.MODEL_NOT_SERVED, f"model: no live provider serves {name!r}; {meant}", field="model"
        )

    async def ListModelPrices(
        self, request: pb.ListModelPricesRequest, context: Context
    ) -> pb.ListModelPricesResponse:
        rate = self._catalogue.sar_per_usd
        return pb.ListModelPricesResponse(
            object="list",
            currency="USD",
            sar_per_usd=str(rate),
            data=[_price(each.model.name, each.price, rate) for each in await self._catalogue.listed()],
        )


def _entry(listed: Listed, rate: Decimal) -> pb.ServedModelEntry:
    model = listed.model
    owner, slash, _ = model.name.partition("/")
    writes = JobType.LLM_INFERENCE in model.kinds
    return pb.ServedModelEntry(
        id=model.name,
        object="model",
        created=model.since_ms // 1000,
        owned_by=owner if slash else "dcp",
        name=model.name,
        input_modalities=["text"],
        output_modalities=[_OUTPUTS[kind] for kind in model.kinds],
        context_length=model.context_tokens or None,
        max_output_length=(min(model.context_tokens, _MAX_TOKENS) or None) if writes else None,
        pricing=_by_tokens(listed.price, rate) if isinstance(listed.price, TokenPrice) else None,
        supported_sampling_parameters=_PARAMETERS if writes else (),
        type="model",
        display_name=model.name,
        created_at=convert.timestamp(model.since_ms),
    )


def _price(name: str, price: Price, rate: Decimal) -> pb.ModelPrice:
    if isinstance(price, TokenPrice):
        return pb.ModelPrice(id=name, pricing=_by_tokens(price, rate))
    return pb.ModelPrice(id=name, usd_per_minute=dollars.of_minute(price, rate))


def _by_tokens(price: TokenPrice, rate: Decimal) -> pb.TokenPricing:
    of = dollars.of_tokens(price, rate)
    return pb.TokenPricing(
        prompt=of.prompt, completion=of.completion, request="0", image="0", input_cache_read=of.cached
    )
