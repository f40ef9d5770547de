"""The text of an experiment: its domains, and the stream of domains over rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from cloud.text.sources import Domain, default_domain
from cloud.text.token_limit import TokenLimit
from cloud.text.user_text import file_domain, hub_domain
from hil.settings import DefaultText, FileText, HubText

TEXT_RULES: Final = 2
"""Number of the rules by which a user's text is cut and split; another one for other rules."""


def only_domain(settings: FileText | HubText) -> str:
    """Name of the one domain of a user's text."""
    if isinstance(settings, FileText):
        return Path(settings.path).stem
    return settings.name.rpartition("/")[2]


def load_domains(
    settings: DefaultText | FileText | HubText, seed: int, limit: TokenLimit
) -> tuple[dict[str, Domain], list[str]]:
    """The domains of a text source, and the stream: the domain of each round (repeated from its
    start when it ends).

    Args:
        settings: the table [text].
        seed: decides what is held out, and the words of the text that ships.
        limit: longest example, by the tokenizer of the base model.
    Raises:
        TextError: a file, column, label, domain or package is missing, a row is damaged, or there
            is too little text.
    """
    match settings:
        case DefaultText():
            stream: list[str] = []
            for name in settings.stream:
                stream += settings.dwell * [name]
            domains = (default_domain(name, settings, seed) for name in dict.fromkeys(stream))
            return {domain.name: _with_note(domain, limit) for domain in domains}, stream
        case FileText():
            domain = file_domain(only_domain(settings), settings, seed, limit)
        case HubText():
            domain = hub_domain(only_domain(settings), settings, limit)
    return {domain.name: domain}, [domain.name]


def notes_of(domains: dict[str, Domain]) -> list[str]:
    """What was left out, cut or divided, a phrase each, with the domain's name in front."""
    notes: list[str] = []
    for domain in domains.values():
        notes += (f"{domain.name}: {note}" for note in domain.notes)
    return notes


def _with_note(domain: Domain, limit: TokenLimit) -> Domain:
    counts = limit.count([example.prompt + example.label_word for example in domain.train])
    n_long = sum(n > limit.max_tokens for n in counts)
    if not n_long:
        return domain
    note = (
        f"{n_long:,} of {len(counts):,} examples are trained on without what is beyond "
        f"{limit.max_tokens} tokens (finetune.max_tokens)"
    )
    return replace(domain, notes=(note,))
