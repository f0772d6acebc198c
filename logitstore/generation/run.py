"""Generate: a model answers the prompts of a corpus once, into one file.

All prompts are read and made tokens first, so that one that cannot be answered is told before a
model is loaded. The answers of a part are written together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from logitstore.errors import NotFinite
from logitstore.generation.answer_file import answer_table
from logitstore.generation.answering import Answer, Asked
from logitstore.generation.job import GenerateJob
from logitstore.generation.options import GENERATE_OPTIONS, GenerateOptions, check_generate
from logitstore.generation.parts import AnswerParts
from logitstore.options import takes
from logitstore.progress import Meter

__all__ = ["GenerateSummary", "generate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateSummary:
    """What a run left behind."""

    out: str
    prompts: int
    answers: int  # rows of the file
    tokens: int  # of the answers, their ends included
    cut: int  # answers without an end: --max-new-tokens was reached
    empty: int  # answers that are an end token alone
    longest: int  # tokens of the longest row, its prompt included
    skipped: int  # records left out
    left_out: int  # answers left out of prompts that were asked
    seconds: float  # of this run, without the time to load the model
    new_answers: int  # given by this run; 0 where the file was finished already
    new_tokens: int


@takes(GENERATE_OPTIONS, check=check_generate)
def generate(**values: Any) -> GenerateSummary:
    """Let a model answer prompts, and leave the answers in one Parquet file.

    The same call again goes on where a killed one stopped, gives the same bytes, and leaves a
    finished file as it is. `dump`, `trainer.fit` and `trainer.evaluate` read the file. Raises
    CorpusError, ModelError, SettingError, SpecError or StorageError.
    """
    options = GenerateOptions(**values)
    parts = AnswerParts(options.out)
    with parts.alone():
        job = GenerateJob.load(options, begun=parts.begun())
        parts.begin(job.metadata)
        started = time.monotonic()
        work = _Work(job, parts)
        if not parts.finished:
            work.run()
        parts.clear()
        total = parts.counts()
    return GenerateSummary(
        out=str(options.out),
        prompts=len(job.prompts),
        answers=total.answers,
        tokens=total.tokens,
        cut=total.cut,
        empty=total.empty,
        longest=total.longest,
        skipped=job.reader.skipped,
        left_out=job.wanted - total.answers,
        seconds=time.monotonic() - started,
        new_answers=work.answers,
        new_tokens=work.tokens,
    )


class _Work:
    """The parts of a job that are still to be done, one after another."""

    def __init__(self, job: GenerateJob, parts: AnswerParts) -> None:
        self.answers = 0
        self.tokens = 0
        self._job = job
        self._parts = parts
        self._share = max(1, job.options.part_answers // job.options.n)  # prompts of a part
        self._count = -(-len(job.prompts) // self._share)
        self._done = 0

    def run(self) -> None:
        """Answer what is missing, and make the file of its parts."""
        missing = self._parts.missing(self._count)
        self._done = self._count - len(missing)
        self._meter = Meter(
            self._job.options.on_progress,
            stage="answering",
            unit="tokens",
            fraction=self._done / max(1, self._count),
        )
        for number in missing:
            pairs = self._part(number)
            table = answer_table(pairs, tokenizer=self._job.tokenizer)
            self._parts.write(number, table, self._job.metadata)
            self._done += 1
            self._tell(0.0)
        self._parts.join(self._count, self._job.metadata)

    def _part(self, number: int) -> list[tuple[Asked, Answer]]:
        """All answers of a part, by prompt, answer and turn."""
        prompts = self._job.prompts[number * self._share : (number + 1) * self._share]
        asked = [
            Asked(prompt=prompt, answer=answer)
            for prompt in prompts
            for answer in range(self._job.options.n)
        ]
        wanted = max(1, sum(1 + len(one.prompt.content.following) for one in asked))
        found: list[tuple[Asked, Answer]] = []
        while asked:
            answered = list(self._answered(asked, done=len(found), wanted=wanted))
            found += answered
            asked = [one for pair in answered for one in self._next(*pair)]
        order = {prompt.id: place for place, prompt in enumerate(prompts)}
        return sorted(
            found, key=lambda one: (order[one[0].prompt.id], one[0].answer, one[0].prompt.turn)
        )

    def _answered(
        self, asked: list[Asked], *, done: int, wanted: int
    ) -> Iterator[tuple[Asked, Answer]]:
        """The answers to `asked`, without those that are no distribution's."""
        for places in self._job.answerer.batches(asked):
            batch = [asked[place] for place in places]
            answers = self._job.answerer.answers(
                batch, on_step=self._on_step(len(batch), done=done, wanted=wanted)
            )
            done += len(batch)
            self.answers += len(batch)
            self.tokens += sum(len(one.ids_T) for one in answers)
            self._tell(min(1.0, done / wanted))
            for one, answer in zip(batch, answers, strict=True):
                if answer.finite:
                    yield one, answer
                elif not self._job.options.skip_bad:
                    raise _not_finite(one)

    def _on_step(self, rows: int, *, done: int, wanted: int) -> Callable[[int], None]:
        """What tells how far a batch of so many rows is; an answer may end before its most."""
        most = self._job.options.max_new_tokens
        return lambda steps: self._tell(min(1.0, (done + rows * steps / most) / wanted))

    def _next(self, asked: Asked, answer: Answer) -> Iterator[Asked]:
        """The next turn of a prompt that has several."""
        said = answer.ids_T[:-1] if answer.ended else answer.ids_T
        prompt = self._job.reader.next_turn(asked.prompt, said.tolist())
        if prompt is not None:
            yield Asked(prompt=prompt, answer=asked.answer)

    def _tell(self, share: float) -> None:
        """Tell how far the run is; `share` of the part at work is done."""
        self._meter.tell(
            self.tokens,
            fraction=min(1.0, (self._done + share) / max(1, self._count)),
            detail=f"part {min(self._done + 1, self._count)} of {self._count}",
            facts=(f"{self.answers:,} answers",),
        )


def _not_finite(asked: Asked) -> NotFinite:
    return NotFinite(
        "the model's numbers are no distribution",
        place=asked.prompt.place,
        remedy="Try --dtype float32, for half precision can overflow, or leave such prompts out "
        "with --skip-bad",
    )
