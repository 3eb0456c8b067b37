"""ContentAgentWorkflow, the example agent: outline → sections in parallel → edit, each call a budgeted child workflow.

Written for the smallest models too: it asks for JSON where it needs structure, fills in what is missing, and goes on
without a section that failed.
"""

import asyncio

from pydantic import BaseModel, ConfigDict, Field
from temporalio import workflow

from paymaster import LLMRequest, LLMResult, Outcome, generate, try_generate
from paymaster.messages.temporal_names import CONTENT_AGENT_WORKFLOW

EDITED_CHARACTERS_MAX = 400
"""Of each section, for the introduction: small models have a small context."""


class ArticleRequest(BaseModel):
    model_config = ConfigDict(frozen=True)

    topic: str
    sections: int = Field(default=3, ge=1, le=20)
    budget: str
    route: str = "writer"
    max_output_tokens: int = 120
    """For each call."""


class Section(BaseModel):
    title: str
    text: str | None
    """None: its call did not complete; `problem` says why."""
    problem: str | None = None


class Article(BaseModel):
    title: str
    introduction: str | None
    sections: tuple[Section, ...]
    cost_nanos: int
    calls: tuple[str, ...]
    """The call ids, in the order in which they were started."""


@workflow.defn(name=CONTENT_AGENT_WORKFLOW)
class ContentAgentWorkflow:
    @workflow.run
    async def run(self, request: ArticleRequest) -> Article:
        outline = await generate(self._ask(request, "outline", _outline_prompt(request), _outline_schema(request)))
        titles = _titles(outline, request)
        sections = await asyncio.gather(
            *(
                try_generate(self._ask(request, f"section-{n}", _section_prompt(request, title)))
                for n, title in enumerate(titles, start=1)
            )
        )
        written = [result.text.strip() for result in sections if result.outcome is Outcome.COMPLETED]
        edited = await try_generate(self._ask(request, "edit", _edit_prompt(request, written)))
        results = (outline, *sections, edited)
        return Article(
            title=request.topic,
            introduction=edited.text if edited.outcome is Outcome.COMPLETED else None,
            sections=tuple(_section(title, result) for title, result in zip(titles, sections, strict=True)),
            cost_nanos=sum(result.cost_nanos for result in results),
            calls=tuple(result.call_id for result in results),
        )

    def _ask(
        self, request: ArticleRequest, step: str, prompt: str, json_schema: dict[str, object] | None = None
    ) -> LLMRequest:
        """A call whose id follows from the article's, so that a repeated agent run does not pay again."""
        return LLMRequest.model_validate(
            {
                "route": request.route,
                "budget": request.budget,
                "system": "You write short, plain articles.",
                "prompt": prompt,
                "json_schema": json_schema,
                "max_output_tokens": request.max_output_tokens,
                "call_id": f"{workflow.info().workflow_id}/{step}",
                "metadata": {"article": request.topic[:100], "step": step},
            }
        )


def _outline_prompt(request: ArticleRequest) -> str:
    return f"Give {request.sections} section titles, of a few words each, for a short article about {request.topic}."


def _outline_schema(request: ArticleRequest) -> dict[str, object]:
    title = {"type": "string", "minLength": 4, "maxLength": 60}
    n = request.sections
    return {
        "type": "object",
        "properties": {"titles": {"type": "array", "items": title, "minItems": n, "maxItems": n}},
        "required": ["titles"],
    }


def _titles(outline: LLMResult, request: ArticleRequest) -> list[str]:
    """The titles that the model gave, and plain ones up to the number that was asked for."""
    given = outline.parsed.get("titles") if isinstance(outline.parsed, dict) else None
    titles = [title.strip() for title in given if isinstance(title, str)] if isinstance(given, list) else []
    titles = list(dict.fromkeys(title for title in titles if title))[: request.sections]
    return titles + [f"{request.topic}, part {n}" for n in range(len(titles) + 1, request.sections + 1)]


def _section_prompt(request: ArticleRequest, title: str) -> str:
    return f'Write two or three sentences for the section "{title}" of an article about {request.topic}.'


def _edit_prompt(request: ArticleRequest, sections: list[str]) -> str:
    text = "\n\n".join(section[:EDITED_CHARACTERS_MAX] for section in sections)
    return f"Write two sentences that introduce this article about {request.topic}:\n\n{text}"


def _section(title: str, result: LLMResult) -> Section:
    if result.outcome is Outcome.COMPLETED:
        return Section(title=title, text=result.text.strip())
    return Section(title=title, text=None, problem=f"{result.reason}: {result.detail}")
