"""Upload a bundle to the Hugging Face hub, by its own library."""

from __future__ import annotations

from pathlib import Path

from ladder_vae.system.errors import UserError, one_line

PACKAGE = "huggingface_hub"


def check(repository: str) -> None:
    """Check what can be checked before anything is computed.

    Raises:
        UserError: If there is no token, or the name is none of a repository.
    """
    import huggingface_hub
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"push={repository} names no repository: {one_line(error)}") from None
    if huggingface_hub.get_token() is None:
        raise UserError(
            f"push={repository} needs a token of the hub; run `hf auth login`, or set HF_TOKEN to one that "
            "may write"
        )


def push(directory: Path, repository: str) -> str:
    """Upload all files of a directory; a repository that is new is private.

    Args:
        directory: The bundle.
        repository: As in ``name/model``.

    Returns:
        The address of the repository.

    Raises:
        UserError: If the hub refuses, or cannot be reached.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        made = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=directory, commit_message="Upload a bundle")
    except Exception as error:  # of whichever HTTP library it uses
        raise UserError(
            f"{directory} is written, but was not uploaded to {repository}: {one_line(error)[:300]}"
        ) from None
    return str(made)
