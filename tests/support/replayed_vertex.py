"""Claude and Gemini on Vertex AI: what they want otherwise than behind their own addresses."""

from replayed_claude import ReplayedClaude
from replayed_gemini import ReplayedGemini
from replayed_provider import Body, require
from wire import BASE_URLS


class ReplayedVertexClaude(ReplayedClaude):
    api = "vertex-claude"
    base_url = BASE_URLS["vertex-claude"]

    def check(self, body: Body) -> None:
        require(body.get("anthropic_version") == "vertex-2023-10-16", "anthropic_version: Field required")
        require("model" not in body, "model: Extra inputs are not permitted")
        rest = {name: value for name, value in body.items() if name != "anthropic_version"}
        super().check({"model": self.model, **rest})

    def is_streamed(self, path: str, body: Body) -> bool:
        wants = path.endswith(f"/publishers/anthropic/models/{self.model}:streamRawPredict")
        require(wants == body.get("stream", False), "the method and the body say different things")
        return wants


class ReplayedVertexGemini(ReplayedGemini):
    """It counts in the last chunk alone."""

    api = "vertex-gemini"
    base_url = BASE_URLS["vertex-gemini"]

    def streamed(self, answer: Body) -> str:
        *chunks, last = super().streamed(answer).split("\n\n")[:-1]
        traffic = '"usageMetadata": {"trafficType": "ON_DEMAND"}'
        return "".join(f"{chunk[:-1]}, {traffic}}}\n\n" for chunk in chunks) + f"{last}\n\n"

    def is_streamed(self, path: str, body: Body) -> bool:
        require(f"/publishers/google/models/{self.model}:" in path, "no such path")
        return "streamGenerateContent" in path
