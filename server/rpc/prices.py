"""PriceService at the wire."""

from __future__ import annotations

from dcp.v1 import prices_pb2 as pb
from dcp.v1 import prices_pb2_grpc

from server.domain.errors import invalid_field
from server.domain.gpu_models import asked
from server.domain.pricing import Price, TimePrice, TokenPrice, per_minute, sar, sar_micros
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, operator
from server.services.prices import OwnPrice, PriceList, Subject
from server.store.prices import Card, Kind

_BY_GPU = ("sar_per_hour",)
_INPUT, _CACHED, _OUTPUT = (
    f"sar_per_million_{tokens}_tokens" for tokens in ("input", "cached_input", "output")
)
_BY_TOKENS = (_INPUT, _CACHED, _OUTPUT)
# 100,000 SAR for an hour or a million tokens: more is a slip of the hand.
_MOST_MICROS = sar_micros("100000")


class PriceServicer(prices_pb2_grpc.PriceServiceServicer):
    def __init__(self, prices: PriceList) -> None:
        self._prices = prices

    async def ListPrices(self, request: pb.ListPricesRequest, context: Context) -> pb.ListPricesResponse:
        return _card(await self._prices.card())

    async def SetPrice(self, request: pb.SetPriceRequest, context: Context) -> pb.ListPricesResponse:
        return _card(await self._prices.set(operator(context), _subject(request), _price(request)))

    async def SetStoragePrice(
        self, request: pb.SetStoragePriceRequest, context: Context
    ) -> pb.ListPricesResponse:
        micros = _amount(request, "sar_per_gb_day")
        return _card(await self._prices.set_storage(operator(context), micros or None))

    async def SetOwnPrice(self, request: pb.SetPriceRequest, context: Context) -> pb.ListOwnPricesResponse:
        return _own(await self._prices.set_own(caller().id, _subject(request), _price(request)))

    async def ListOwnPrices(
        self, request: pb.ListOwnPricesRequest, context: Context
    ) -> pb.ListOwnPricesResponse:
        return _own(await self._prices.own(caller().id))


def _subject(request: pb.SetPriceRequest) -> Subject:
    if request.gpu_model.strip():
        return Subject(Kind.GPU_MODEL, str(asked(request.gpu_model.strip())))
    if request.model.strip():
        return Subject(Kind.MODEL, request.model.strip())
    raise invalid_field("model", "must name a model, or leave it out and send gpu_model")


def _price(request: pb.SetPriceRequest) -> Price | None:
    """The price of a request; None if it ends one. Raises INVALID_FIELD."""
    needed = _BY_GPU if request.gpu_model.strip() else (_INPUT, _OUTPUT)
    fitting = _BY_GPU if request.gpu_model.strip() else _BY_TOKENS
    for name in (*_BY_GPU, *_BY_TOKENS):
        if getattr(request, name) and (request.remove or name not in fitting):
            others = "remove" if request.remove else "gpu_model" if name in _BY_TOKENS else "model"
            raise invalid_field(name, f"does not go with {others}; leave one of them out")
    if request.remove:
        return None
    amounts = {name: _amount(request, name) for name in fitting if getattr(request, name) or name in needed}
    if fitting is _BY_GPU:
        if not (per_hour := amounts["sar_per_hour"]):
            raise invalid_field("sar_per_hour", "must be more than 0")
        return TimePrice(per_hour)
    return TokenPrice(amounts[_INPUT], amounts.get(_CACHED, amounts[_INPUT]), amounts[_OUTPUT])


def _amount(request: pb.SetPriceRequest | pb.SetStoragePriceRequest, name: str) -> int:
    try:
        micros = sar_micros(getattr(request, name))
    except ValueError as error:
        raise invalid_field(name, str(error)) from None
    if micros > _MOST_MICROS:
        raise invalid_field(name, "must be at most 100000 SAR")
    return micros


def _card(card: Card) -> pb.ListPricesResponse:
    kinds = [
        pb.PriceEntry(
            job_type=convert.job_type_number(kind),
            price=convert.price(per_minute(rate)),
            since=convert.timestamp(card.since_ms.get((Kind.JOB_TYPE, kind.value)) or None),
        )
        for kind, rate in card.prices.rates.items()
    ]
    gpus = [
        pb.PriceEntry(
            gpu_model=name,
            price=convert.price(TimePrice(micros)),
            since=convert.timestamp(card.since_ms[Kind.GPU_MODEL, name]),
        )
        for name, micros in sorted(card.prices.gpu_hours.items())
    ]
    models = [
        pb.PriceEntry(
            model=name,
            price=convert.price(price),
            since=convert.timestamp(card.since_ms[Kind.MODEL, name]),
        )
        for name, price in sorted(card.prices.tokens.items())
    ]
    kept = sar(card.storage_micros) if card.storage_micros is not None else None
    return pb.ListPricesResponse(prices=[*kinds, *gpus, *models], sar_per_gb_day=kept)


def _own(prices: list[OwnPrice]) -> pb.ListOwnPricesResponse:
    entries = []
    for each in prices:
        price = each.own or each.platform
        assert price is not None, "what is listed has a price"
        entry = pb.OwnPrice(price=convert.price(price), own=each.own is not None)
        setattr(entry, each.subject.kind.value, each.subject.name)
        if each.platform is not None and (bounds := each.bounds) is not None:
            entry.platform.CopyFrom(convert.price(each.platform))
            entry.least.CopyFrom(convert.price(bounds[0]))
            entry.most.CopyFrom(convert.price(bounds[1]))
        entries.append(entry)
    return pb.ListOwnPricesResponse(prices=entries)
