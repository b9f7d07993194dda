"""What a request can do wrong, as an HTTP status and one line."""


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status, 400..599.
        message: For the one who asked; line ends become spaces.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
