"""Maps between the enums of server.domain and those of the wire, whose members have the same names.

If the wire's enum lacks a member, importing the module that asks for the map fails.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

Member = TypeVar("Member", bound=Enum)
Number = TypeVar("Number", bound=int)
_ZERO = "UNSPECIFIED"


def enum_map(members: type[Member], wire: _EnumTypeWrapper[Number]) -> dict[Member, Number]:
    """The wire's number of each member."""
    prefix = wire.DESCRIPTOR.values[0].name.removesuffix(_ZERO)  # buf requires this name for each first value
    return {member: wire.Value(prefix + member.name) for member in members}


def member_map(members: type[Member], wire: _EnumTypeWrapper[Number]) -> dict[int, Member]:
    """The member of each of the wire's numbers that has one."""
    return {int(number): member for member, number in enum_map(members, wire).items()}
