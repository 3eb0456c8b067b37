"""What a user says, block by block, as neutral messages in which it is read in the same order."""

from paymaster.messages import ChatMessage, Document, Image


class UserTurns:
    """The messages of one turn. A model reads the images of each, then its documents, then its text: what comes in
    another order begins the next one, and so does a text after a text, which joined would be another text."""

    def __init__(self) -> None:
        self._done: list[ChatMessage] = []
        self._images: list[Image] = []
        self._documents: list[Document] = []
        self._cache = False

    def add_image(self, image: Image, *, cache: bool = False) -> None:
        """`cache`: the conversation up to here will come again. It counts at the end of a message."""
        if self._documents:
            self._end()
        self._images.append(image)
        self._cache = cache

    def add_document(self, document: Document, *, cache: bool = False) -> None:
        self._documents.append(document)
        self._cache = cache

    def add_text(self, text: str, *, cache: bool = False) -> None:
        self._cache = cache
        self._end(text)

    def add_result(self, call_id: str, text: str, *, cache: bool = False) -> None:
        """What a tool answered, which is a message of its own."""
        if self._images or self._documents:
            self._end()
        self._done.append(ChatMessage(role="tool", content=text, tool_call_id=call_id, cache=cache))

    def messages(self) -> list[ChatMessage]:
        """All of them; none for a turn of nothing."""
        if self._images or self._documents:
            self._end()
        return self._done

    def _end(self, text: str = "") -> None:
        images, documents = tuple(self._images), tuple(self._documents)
        self._done.append(ChatMessage(role="user", content=text, images=images, documents=documents, cache=self._cache))
        self._images, self._documents = [], []
