"""Another taskset of verifiers: products, with a tool."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf  # type: ignore[import-not-found,unused-ignore]


class Multiplier(vf.Toolset[vf.ToolsetConfig]):  # type: ignore[misc,unused-ignore]
    @vf.tool  # type: ignore[untyped-decorator,unused-ignore]
    def multiply(self, a: int, b: int) -> int:
        """Multiply two numbers."""
        return a * b


class ProductConfig(vf.TaskConfig):  # type: ignore[misc,unused-ignore]
    tools: vf.ToolsetConfig = vf.ToolsetConfig()


class ProductData(vf.TaskData):  # type: ignore[misc,unused-ignore]
    answer: str


class Product(vf.Task[ProductData, vf.State, ProductConfig]):  # type: ignore[misc,unused-ignore]
    @classmethod
    def toolsets(cls, config: ProductConfig) -> list[vf.Toolset]:
        return [Multiplier(config.tools)]

    @vf.reward  # type: ignore[untyped-decorator,unused-ignore]
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)


class ProductsConfig(vf.TasksetConfig):  # type: ignore[misc,unused-ignore]
    task: ProductConfig = ProductConfig()


class Products(vf.Taskset[Product, ProductsConfig]):  # type: ignore[misc,unused-ignore]
    def load(self) -> Iterator[Product]:
        for n in range(10, 20):
            yield Product(ProductData(prompt=f"What is {n} * 7?", answer=str(7 * n)), self.config.task)


__all__ = ["Products"]


if __name__ == "__main__":
    Multiplier.run()
