"""What a server answers to a call, as text for the model."""

from __future__ import annotations

import json

from mcp.types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from toolrl.support.secret_values import hide
from toolrl.tools.results import as_text


def text_of(result: CallToolResult) -> str:
    """The texts of a result; pictures, sounds and files as notes of their kind and size; else its structured content.

    Secrets in the server's settings are hidden: a server may print its environment.
    """
    parts = [_block(block) for block in result.content]
    if result.structured_content is not None and not any(isinstance(block, TextContent) for block in result.content):
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return hide(as_text("\n".join(part for part in parts if part))) or "(no output)"


def _block(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return f"({block.type}: {block.mime_type}, {_bytes(block.data)})"
        case ResourceLink():
            return f"(resource: {block.uri}, {block.mime_type or 'unknown type'}, {block.title or block.name})"
        case EmbeddedResource(resource=resource):
            if isinstance(resource, TextResourceContents):
                return f"(resource: {resource.uri})\n{resource.text}"
            return f"(resource: {resource.uri}, {resource.mime_type or 'unknown type'}, {_bytes(resource.blob)})"


def _bytes(base64_text: str) -> str:
    return f"{len(base64_text.rstrip('=')) * 3 // 4:,} bytes"
