"""An MCP server that tells the weather: `python server.py` talks over stdin and stdout.

Any server can take its place, in any language; `toolrl.tools.mcp_tools` says how to start it or where to reach it.
"""

import json
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

DATA = Path(__file__).parent / "data" / "temperatures.json"
TEMPERATURES: dict[str, list[int]] = json.loads(DATA.read_text("utf-8"))

server = MCPServer("weather")


@server.tool()
def temperature(city: str, day: int) -> int:
    """Tell the temperature at noon, in degrees Celsius.

    Args:
        city: A capital, in English.
        day: The day, from 1 to 60.
    """
    if city not in TEMPERATURES or not 1 <= day <= len(TEMPERATURES[city]):
        raise ToolError(f"nothing is known about {city!r} on day {day}")
    return TEMPERATURES[city][day - 1]


if __name__ == "__main__":
    server.run()
