"""The result of a run on the Hub: a model repository, made for its owner alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore import LogitStoreError
from logitstore.plumbing import hub_errors

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_repository", "push_result"]

# What of a run's folder is no part of its result.
_LEFT_OUT = ["checkpoint-*/**", "damaged-checkpoint-*/**", "best-*/**", "evals/**", ".*"]


def make_repository(repository: str) -> None:
    """Make sure that there is a repository to upload to, before a run begins.

    Args:
        repository: Its name on the Hub, org/name.

    Raises LogitStoreError where the Hub refuses.
    """
    from huggingface_hub import HfApi

    with hub_errors(f"hf://{repository}"):
        HfApi().create_repo(repository, repo_type="model", private=True, exist_ok=True)


def push_result(out: Path, repository: str) -> str:
    """Upload the result of a finished run in one commit; gives the commit.

    Args:
        out: The folder of the run.
        repository: As for `make_repository`.

    Raises LogitStoreError where the Hub refuses; the result stays where it is.
    """
    from huggingface_hub import HfApi

    try:
        with hub_errors(f"hf://{repository}"):
            commit = HfApi().upload_folder(
                repo_id=repository,
                folder_path=out,
                ignore_patterns=_LEFT_OUT,
                commit_message="A student, distilled by trainer fit",
            )
    except LogitStoreError as error:
        error.remedy = (
            f"The run has finished in {out}: upload it with `hf upload {repository} {out}`"
        )
        raise
    return str(commit.oid)
