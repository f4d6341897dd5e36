"""Phrases before an instruction in the answers of models: lead-ins, labels and analyses."""

from __future__ import annotations

import re


def any_of(*patterns: str) -> str:
    """Return a pattern that matches one of the patterns."""
    return "(?:" + "|".join(patterns) + ")"


def words_of(text: str) -> str:
    """Return a pattern that matches one of the phrases between commas."""
    return any_of(*text.replace("'", "['’]").split(", "))


NOUN = words_of(
    "instruction, prompt, variation, variant, version, paraphrase, rewrite, rewording, rephrasing, revision, "
    "reformulation, restatement"
)
_BE = words_of(
    "was, is, were, are, could be, could have been, might be, might have been, may be, may have been, "
    "would be, "
    "would have been, must have been, should be, seems to be, seems to have been, appears to be, "
    "appears to have been, can be inferred as, can be summarized as, reads"
)
_HEDGES = words_of(
    "likely, probably, most likely, simply, possibly, perhaps, as follows, something like, "
    "along the lines of, "
    "the following, given as, given, phrased as, to your friend"
)
_HEDGE = rf"(?:\s+{_HEDGES})*"
_MARK = r"[*_`]{0,3}"
_NUMBER = r"(?:\s*\(?#?\d{1,2}\)?)?"
_IN_BRACKETS = r"(?:[^\S\n]*\([^()\n]{0,60}\))?"
# A label does not begin with a verb: "Follow this instruction: ..." is an instruction.
_VERB = words_of(
    "follow, use, read, apply, execute, obey, given, with, for, if, do, see, write, complete, answer, "
    "repeat, "
    "rephrase, rewrite, translate, consider, note, include, improve, generate, create, return, output"
)
_LABEL = any_of(
    rf"(?:[\w'’]+[-/ ]){{0,4}}{NOUN}s?",
    "output",
    "answer",
    "task",
    "result",
    words_of(
        "rewritten, revised, rephrased, reworded, paraphrased, simplified, shortened, improved, "
        "modified, updated"
    ),
    words_of("in other words, put differently, you could say, try this"),
)

LABEL = re.compile(
    rf"\s*(?:#{{1,6}}[^\S\n]*|>[^\S\n]*)?{_MARK}(?!{_VERB}\b\s+\S){_LABEL}{_NUMBER}{_IN_BRACKETS}"
    rf"(?:\s+{_BE}{_HEDGE})?{_MARK}(?:\s*[:：]|[^\S\n]+[-–—](?=\s)){_MARK}[^\S\n]*\n*",
    re.IGNORECASE,
)
"""Label before an instruction: "Instruction:", "**New instruction:**", "Variation 1 (shorter):"."""

HEADING = re.compile(
    rf"\s*(?:#{{1,6}}[^\S\n]*{_MARK}|\*\*|__)(?:[\w'’]+[-/ ]){{0,4}}{NOUN}s?{_NUMBER}{_IN_BRACKETS}"
    rf"[^\S\n]*:?{_MARK}[^\S\n]*(?:\n+|$)",
    re.IGNORECASE,
)
"""Heading line of an instruction: "### Instruction", "**Rewritten Instruction**"."""

_AGREED = words_of(
    "sure thing, sure, certainly, of course, okay, ok, absolutely, got it, no problem, understood, "
    "great, yes, "
    "thank you, thanks"
)
_MANNER = words_of(
    "formal, informal, casual, concise, short, shorter, brief, direct, simple, simplified, detailed, "
    "friendly, polite, playful, creative, neutral, academic, technical, professional, conversational, plain"
)
_GREETING = any_of(
    r"\s*(?:what an? [^\n.!?]{1,40}|excellent|wonderful|perfect|good job|well done|here you go)!\s+",
    r"\s*(?:what an? |that['’]s an? )?(?:great|good|excellent|interesting|nice|delightful|fun|fascinating) "
    r"(?:question|idea|task|challenge|puzzle|exercise|examples?)[!.]\s+",
    r"\s*(?:assistant|ai|chatgpt)\s*:\s+(?![\s\S]{0,2000}^\s*(?:user|human)\s*:)",
    rf"\s*{_AGREED}\b[!.,:…-]+\s+",
    r"\s*(?:sure(?: thing)?|certainly|of course|okay|ok)\b[^\n:]{0,80}?[!.,:]\s+",
    r"\s*(?:sure|certainly|of course|okay|ok|absolutely)\s+(?=here\b)",
)
_I = words_of(
    "i can, i could, i will, i'd, i would, i'll, i have, i've, i am, i'm, happy, glad, let me, let's, "
    "allow me, "
    "i rewrote, i rephrased, i made, i apologize for, my apologies, i'm sorry for, sorry for"
)
_HELP = words_of(
    "instruction, help, rephrase, reword, rewrite, rewrote, rewritten, variation, version, paraphrase, "
    "prompt, "
    "assist, pattern, pairs, examples, confusion, inconvenience"
)
_OFFER = rf"\s*{_I}\b[^\n:]{{0,120}}?\b{_HELP}\b[^\n:.!]{{0,80}}[.:!]\s+"
_THIS = r"(?:here(?:['’]s| is| are| you go)?|below (?:is|are)|the following (?:is|are)|this is)"
_HERE = any_of(
    rf"\s*{_THIS}\b[^\n:]{{0,140}}[:：]\s*",
    rf"\s*{_THIS}\b[^\n:]{{0,100}}?\b{NOUN}s?\b[^\n:.]{{0,80}}[.!]?[^\S\n]*\n\s*",
)
_START = words_of(
    "based on, judging by, judging from, looking at, according to, after looking, after analyzing, "
    "after analysing, after reviewing, after examining, from the, from these, given the, given these, "
    "given your, "
    "given that, considering, upon, in this case, in that case, it seems, it appears, it looks, i think, "
    "i believe, i would say, i guess, i suspect, i assume, the, your, one, a possible, my, so, "
    "therefore, thus, "
    "in short, then, hence, most likely, likely, probably, possibly, perhaps, that, however"
)
_ANNOUNCED = (
    rf"\s*{_MARK}{_START}\b[^\n:]{{0,240}}?\b(?:instruction|prompt|"
    rf"task)s?\b[^\n:.]{{0,80}}?\b{_BE}{_HEDGE}{_MARK}"
    + any_of(
        rf"\s*[:：]{_MARK}\s*",
        r",?\s+(?:to\s+)?(?=[\"“'‘«„`*])",
        r"(?<=was)\s+to\s+(?=[a-z])",
        r"(?<=likely)\s+to\s+(?=[a-z])",
    )
)
_CONCLUDED = (
    r"\s*(?:[^\n:]{1,300}?[.!]|let(?:['’]s| us| me) (?:think|see|look|analy[sz]e|reason)\b[^\n]{0,300}?)"
    r"\s+(?:so|thus|therefore|hence),? (?:the|my) "
    rf"(?:\w+ )?(?:instruction|prompt) {_BE}{_HEDGE}\s*[:：]\s*"
)
_OTHER_LANGUAGES = any_of(
    r"\s*(?:根据[^\n:：]{0,60}[,，]\s*)?(?:该|这个|新的?|改写后的?|以下是[^\n:：]{0,20})?(?:指令|提示词?|指示)"
    r"(?:是|为|如下|可能|应该)*[:：]\s*",
    r"\s*(?:la|die|l['’]|hier ist|voici|aquí está|aquí tienes|ecco|aqui está|a|вот|la nueva|neue|nouvelle|"
    r"nueva)?\b"
    r"[^\n:]{0,40}(?:instrucción|anweisung|istruzione|instrução|инструкция|l['’]instruction|consigne)\b"
    r"(?:[^\S\n]+(?:fue|era|es|war|lautete|ist|était|est|foi|è))?[^\S\n]*:\s*",
)
_MANNERED = rf"\s*\*\*(?:more )?{_MANNER}(?: {NOUN})?(?::\*\*|\*\*:)\s*"
_BRACKETED = rf"\s*\[(?:\w+ ){{0,2}}{NOUN}s?\]:?\s*"
_ALONE = r"\s*(?:the |new |rewritten |revised |final )?instruction[^\S\n]*\n+"
_UNPUNCTUATED = r"\s*(?:the |your )?(?:\w+ )?instruction (?:given )?(?:was|is)[^\S\n]*:?[^\S\n]*\n+"
_TO = (
    r"\s*(?:[^\n:.]{0,200}?\b)?the (?:original |given |likely |most likely )?instruction\b[^\n:.]{0,60}?"
    rf"\b{_BE}{_HEDGE}\s+to\s+"
)
_FRIEND = (
    r"\s*(?:(?:based on|looking at|from|given|it (?:seems|appears|looks))\b[^\n:]{0,200}?)?\b"
    r"(?:your|the|my|this) friend(?: (?:was|were|has been|had been|must have been|is|is being))?"
    r"(?: likely| probably)? (?:asked|instructed|told|given (?:an|the) instruction)(?: to| was to)\s+"
)
_CONTINUED = re.compile(r"\s*(?:\.{3}|…)?\s*(?:(?:was|is)\s*:\s*|(?:(?:was|is)\s+)?to\s+(?=[a-z]))")

ANNOUNCED = (HEADING, LABEL, *(re.compile(p, re.IGNORECASE) for p in (_ANNOUNCED, _UNPUNCTUATED)))
"""Patterns of what announces the instruction, matched at the start of a line."""

LEAD_INS = (
    *(
        re.compile(p, re.IGNORECASE | re.MULTILINE)
        for p in (
            _CONCLUDED,
            _GREETING,
            _OFFER,
            _HERE,
            _UNPUNCTUATED,
            _ANNOUNCED,
            _FRIEND,
            _TO,
            _OTHER_LANGUAGES,
            _BRACKETED,
            _MANNERED,
            _ALONE,
        )
    ),
    LABEL,
    HEADING,
    _CONTINUED,
)
"""Patterns of what stands before an instruction, matched at its start."""

ALTERNATIVES = re.compile(
    r"\b"
    + words_of(
        "variations, variants, versions, alternative, alternatives, options, paraphrases, rewrites, "
        "rephrasings, "
        "ways, prompts, examples, possibilities, suggestions, ideas, few, several, some, possible, "
        "multiple, two, "
        "three, "
        "four, five, [2-9], 10"
    )
    + r"\b",
    re.IGNORECASE,
)
"""Words of a lead-in that announce several instructions."""

OPTION = re.compile(
    rf"[^\S\n]*(?:#{{1,6}}\s*)?{_MARK}(?:option|alternative|choice|{NOUN}|candidate)\s*#?"
    r"(?:\d{1,2}|[a-e])\b"
    rf"{_IN_BRACKETS}{_MARK}(?:\s*[:.)-]{_MARK}[^\S\n]*\n*|[^\S\n]*\n+)"
    rf"|[^\S\n]*\*\*\(?\d{{1,2}}[.)]\s*(?:(?:the|an?|more|very)\s+)?{_MANNER}(?:[ -]\w+)?"
    r"(?:\s*:\*\*|\*\*\s*:)[^\S\n]*\n*",
    re.IGNORECASE,
)
"""Label of one of several instructions: "Option 1:", "Variation 2 (shorter):"."""

ANALYSIS = re.compile(
    r"\b(?:pairs?|patterns?|analy[sz]\w+|looking at|let me|let['’]s (?:look|analy[sz]e|see|break)|"
    r"rephras\w+|rewrit\w+|friend|i (?:think|see|notice|can see|believe))\b"
    r"|^[^\S\n]*(?:sure|certainly|of course|okay|ok|i['’]?m sorry|sorry|i apologi[sz]e|thank)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""Words of a text about an instruction, which is not the instruction."""
