"""Protobuf messages described in few words and built by the runtime: generated code would be bound to its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def message_classes(messages: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The classes of messages, in a pool of their own, so that TensorFlow may be loaded too.

    Args:
        messages: of each its fields as `name kind number`; a kind is a type of protobuf's or one of the messages, with
            a star before it where it is repeated.
    """
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="messages.proto", package="resight", syntax="proto3")
    for message, fields in messages.items():
        described = file.message_type.add(name=message)
        for field in fields:
            name, kind, number = field.split()
            field_type = kind.removeprefix("*")
            described.field.add(
                name=name,
                number=int(number),
                label=proto.LABEL_REPEATED if kind.startswith("*") else proto.LABEL_OPTIONAL,
                type=proto.TYPE_MESSAGE if field_type in messages else proto.Type.Value(f"TYPE_{field_type.upper()}"),
                type_name=f".resight.{field_type}" if field_type in messages else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name: found[f"resight.{name}"] for name in messages}
