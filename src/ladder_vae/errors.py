"""What a user can mend: raised anywhere, printed by the entry points as one ``error:`` line."""


class UserError(Exception):
    """Bad input. The message is one line that names what is wrong and what to do about it."""
