"""The maps between the rules' enums and those of the wire: members of both have the same names.

A member that the wire's enum lacks is an error when the module that asks for the map is imported.
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
    prefix = wire.DESCRIPTOR.values[0].name.removesuffix(_ZERO)  # buf asks every enum to begin with it
    return {member: wire.Value(prefix + member.name) for member in members}


def member_map(members: type[Member], wire: _EnumTypeWrapper[Number]) -> dict[int, Member]:
    """The member of each of the wire's numbers that has one."""
    return {int(number): member for member, number in enum_map(members, wire).items()}
