"""A taskset of verifiers, loaded by verifiers in an environment of its own: sums, one of whose rewards may fail."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf  # type: ignore[import-not-found,unused-ignore]


class SumData(vf.TaskData):  # type: ignore[misc,unused-ignore]
    answer: str
    fails: bool = False


class Sum(vf.Task[SumData]):  # type: ignore[misc,unused-ignore]
    @vf.reward  # type: ignore[untyped-decorator,unused-ignore]
    async def right(self, trace: vf.Trace) -> float:
        print("a reward that prints")
        if self.data.fails:
            raise OSError("the grader is down")
        return float(trace.last_reply == self.data.answer)

    @vf.metric  # type: ignore[untyped-decorator,unused-ignore]
    async def words(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply.split()))


class ArithmeticConfig(vf.TasksetConfig):  # type: ignore[misc,unused-ignore]
    size: int = 8
    fails: bool = False


class Arithmetic(vf.Taskset[Sum, ArithmeticConfig]):  # type: ignore[misc,unused-ignore]
    def load(self) -> Iterator[Sum]:
        print("a taskset that prints")
        for n in range(self.config.size):
            data = SumData(
                prompt=f"What is {n} + 40? Say the number only.", system_prompt="You are a calculator.",
                answer=str(n + 40), id=f"sum-{n}", fails=self.config.fails,
            )  # fmt: skip
            yield Sum(data, self.config.task)


__all__ = ["Arithmetic"]
