"""Phrases around an instruction in the answers of models: lead-ins, remarks after it, and refusals."""

from __future__ import annotations

import re


def _any(*patterns: str) -> str:
    return "(?:" + "|".join(patterns) + ")"


def _words(text: str) -> str:
    return _any(*text.replace("'", "['’]").split(", "))


_NOUN = _words(
    "instruction, prompt, variation, variant, version, paraphrase, rewrite, rewording, rephrasing, revision, "
    "reformulation, restatement"
)
_BE = _words(
    "was, is, were, are, could be, could have been, might be, might have been, may be, may have been, "
    "would be, "
    "would have been, must have been, should be, seems to be, seems to have been, appears to be, "
    "appears to have been, can be inferred as, can be summarized as, reads"
)
_HEDGES = _words(
    "likely, probably, most likely, simply, possibly, perhaps, as follows, something like, "
    "along the lines of, "
    "the following, given as, given, phrased as, to your friend"
)
_HEDGE = rf"(?:\s+{_HEDGES})*"
_MARK = r"[*_`]{0,3}"
_NUMBER = r"(?:\s*\(?#?\d{1,2}\)?)?"
_IN_BRACKETS = r"(?:[^\S\n]*\([^()\n]{0,60}\))?"
# A label does not begin with a verb: "Follow this instruction: ..." is an instruction.
_VERB = _words(
    "follow, use, read, apply, execute, obey, given, with, for, if, do, see, write, complete, answer, "
    "repeat, "
    "rephrase, rewrite, translate, consider, note, include, improve, generate, create, return, output"
)
_LABEL = _any(
    rf"(?:[\w'’]+[-/ ]){{0,4}}{_NOUN}s?",
    "output",
    "answer",
    "task",
    "result",
    _words(
        "rewritten, revised, rephrased, reworded, paraphrased, simplified, shortened, improved, "
        "modified, updated"
    ),
    _words("in other words, put differently, you could say, try this"),
)

LABEL = re.compile(
    rf"\s*(?:#{{1,6}}[^\S\n]*|>[^\S\n]*)?{_MARK}(?!{_VERB}\b\s+\S){_LABEL}{_NUMBER}{_IN_BRACKETS}"
    rf"(?:\s+{_BE}{_HEDGE})?{_MARK}(?:\s*[:：]|[^\S\n]+[-–—](?=\s)){_MARK}[^\S\n]*\n*",
    re.IGNORECASE,
)
"""Label before an instruction: "Instruction:", "**New instruction:**", "Variation 1 (shorter):"."""

HEADING = re.compile(
    rf"\s*(?:#{{1,6}}[^\S\n]*{_MARK}|\*\*|__)(?:[\w'’]+[-/ ]){{0,4}}{_NOUN}s?{_NUMBER}{_IN_BRACKETS}"
    rf"[^\S\n]*:?{_MARK}[^\S\n]*(?:\n+|$)",
    re.IGNORECASE,
)
"""Heading line of an instruction: "### Instruction", "**Rewritten Instruction**"."""

_AGREED = _words(
    "sure thing, sure, certainly, of course, okay, ok, absolutely, got it, no problem, understood, "
    "great, yes, "
    "thank you, thanks"
)
_GREETING = _any(
    rf"\s*{_AGREED}\b[!.,:…-]+\s+",
    r"\s*(?:sure(?: thing)?|certainly|of course|okay|ok)\b[^\n:]{0,80}?[!.,:]\s+",
    r"\s*(?:sure|certainly|of course|okay|ok|absolutely)\s+(?=here\b)",
)
_I = _words(
    "i can, i could, i will, i'd, i would, i'll, i have, i've, i am, i'm, happy, glad, let me, let's, "
    "allow me, "
    "i rewrote, i rephrased, i made, i apologize for, my apologies, i'm sorry for, sorry for"
)
_HELP = _words(
    "instruction, help, rephrase, reword, rewrite, rewrote, rewritten, variation, version, paraphrase, "
    "prompt, "
    "assist, pattern, pairs, examples, confusion, inconvenience"
)
_OFFER = rf"\s*{_I}\b[^\n:]{{0,120}}?\b{_HELP}\b[^\n:.!]{{0,80}}[.:!]\s+"
_THIS = r"(?:here(?:['’]s| is| are| you go)?|below (?:is|are)|the following (?:is|are)|this is)"
_HERE = _any(
    rf"\s*{_THIS}\b[^\n:]{{0,140}}[:：]\s*",
    rf"\s*{_THIS}\b[^\n:]{{0,100}}?\b{_NOUN}s?\b[^\n:.]{{0,80}}[.!]?[^\S\n]*\n\s*",
)
_START = _words(
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
    + _any(
        rf"\s*[:：]{_MARK}\s*",
        r",?\s+(?:to\s+)?(?=[\"“'‘«„`*])",
        r"(?<=was)\s+to\s+(?=[a-z])",
        r"(?<=likely)\s+to\s+(?=[a-z])",
    )
)
_OTHER_LANGUAGES = _any(
    r"\s*(?:根据[^\n:：]{0,60}[,，]\s*)?(?:该|这个|新的?|改写后的?|以下是[^\n:：]{0,20})?(?:指令|提示词?|指示)"
    r"(?:是|为|如下|可能|应该)*[:：]\s*",
    r"\s*(?:la|die|l['’]|hier ist|voici|aquí está|aquí tienes|ecco|aqui está|a|вот|la nueva|neue|nouvelle|"
    r"nueva)?\b"
    r"[^\n:]{0,40}(?:instrucción|anweisung|istruzione|instrução|инструкция|l['’]instruction|consigne)\b"
    r"(?:[^\S\n]+(?:fue|era|es|war|lautete|ist|était|est|foi|è))?[^\S\n]*:\s*",
)
_BRACKETED = rf"\s*\[(?:\w+ ){{0,2}}{_NOUN}s?\]:?\s*"
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
        re.compile(p, re.IGNORECASE)
        for p in (
            _GREETING,
            _OFFER,
            _HERE,
            _UNPUNCTUATED,
            _ANNOUNCED,
            _FRIEND,
            _TO,
            _OTHER_LANGUAGES,
            _BRACKETED,
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
    + _words(
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
    rf"[^\S\n]*(?:#{{1,6}}\s*)?{_MARK}(?:option|alternative|choice|{_NOUN}|candidate)\s*#?(?:\d{{1,2}}|[a-e])\b"
    rf"{_IN_BRACKETS}{_MARK}\s*[:.)-]{_MARK}[^\S\n]*\n*",
    re.IGNORECASE,
)
"""Label of one of several instructions: "Option 1:", "Variation 2 (shorter):"."""

_VERBS = _words(
    "keep, keeps, kept, maintain, maintains, preserve, preserves, convey, conveys, capture, captures, "
    "retain, "
    "retains, explain, explains, clarify, clarifies, simplify, simplifies, shorten, shortens, mean, means, "
    "suggest, suggests, indicate, indicates, imply, implies, align, aligns, reflect, reflects, fit, "
    "fits, match, "
    "matches, aim, aims, ensure, ensures, emphasize, emphasizes, ask, asks, tell, tells, directs, "
    "guides, prompts, "
    "instructs, describes, specifies, provides, uses, makes, is more, is shorter, is clear, is concise, "
    "is simple, "
    "is simpler, is a, is designed, is meant, is intended, is based, is consistent, is because, "
    "is written, has, "
    "would, should work, should help, still, effectively, clearly, accurately, better"
)
_PAIRS = _words("input-output pairs, input/output pairs, input and output pairs, examples, pairs, outputs")
_SHOW = _words(
    "show, shows, demonstrate, demonstrates, illustrate, illustrates, suggest, suggests, indicate, "
    "indicates, "
    "follow, follows, consistently, the output, the outputs, we can see, are the, are all the"
)
_TITLES = _words(
    "explanation, rationale, reasoning, justification, analysis, change, changes, changes made, key changes, "
    "why this works, why it works, what changed, what has changed, breakdown, word count, character count, "
    "comment, comments, remark, remarks"
)
REMARK = re.compile(
    r"[\s*_(>\[-]*"
    + _any(
        _words(
            "let me know, please let me know, feel free, please feel free, i hope, hope this, hope that, "
            "i trust"
        )
        + r"\b",
        r"if you(?:['’]d| would| need| want| have| prefer)[^\n]{0,80}\b(?:me|i|let|feel|ask|version|"
        r"variation|help|tell)\b",
        _words(
            "would you like, do you want, do you need, do you have, is there anything, does this, "
            "can i help, "
            "happy to, i'm happy, is that correct, is that right, is this correct, is this right, "
            "is this what, which one, which version, which of, alternatively"
        )
        + r"\b",
        r"or[,:]?[*_]*$",
        r"i(?:['’]ve| have)? (?:kept|made|chose|used|tried|rewrote|rephrased|replaced|changed|added|removed|"
        r"simplified|shortened|aimed|believe|think)\b",
        rf"(?:this|the|both|these|each|all|my) (?:of )?(?:the |"
        rf"these )?(?:\w+[- ]){{0,2}}{_NOUN}s? (?:\w+ly )?{_VERBS}\b",
        r"(?:this|it) (?:\w+ly )?(?:keeps|maintains|preserves|conveys|captures|retains|clarifies|simplifies|"
        r"means that|suggests|indicates|implies|aligns|fits|matches (?:the|all|each)|explains|works because|"
        r"ensures (?:that )?the (?:meaning|original))\b",
        r"(?:the|these|all|each of the|all of the|in (?:each|all|these|every)(?: of)?(?: the| these)?) "
        rf"(?:given |provided |above )?{_PAIRS}\b[^\n]{{0,40}}?\b{_SHOW}\b",
        r"(?:in )?(?:each|every|all) (?:outputs?|case|example|pair),? (?:the output )?is (?:the|"
        r"an?) (?:direct )?"
        r"[^\n]{0,40}\b(?:of|to) (?:its|the) (?:corresponding )?input",
        rf"(?:the )?{_TITLES}\b[^\n]{{0,40}}:",
        rf"(?:#{{1,6}}\s*)?{_TITLES}\b[*_]*[^\S\n]*$",
        r"(?:please )?note(?: that|:)[*_]*\s+(?:this|i|that this|(?:that )?the (?:above|new|rewritten|"
        r"original|revised|"
        r"meaning|instruction))\b",
        r"i gave a friend\b",
        r"\[?end of (?:instruction|prompt)",
        r"(?:human|user|assistant)\s*:",
        r"generate a variation of the following",
        r"here(?:['’]s| is) (?:why|how|an explanation|a breakdown|the (?:reasoning|explanation))\b",
    ),
    re.IGNORECASE | re.MULTILINE,
)
"""Beginning of a remark to the reader, after an instruction."""

ANALYSIS = re.compile(
    r"\b(?:pairs?|patterns?|analy[sz]\w+|looking at|let me|let['’]s (?:look|analy[sz]e|see|break)|"
    r"rephras\w+|rewrit\w+|friend|i (?:think|see|notice|can see|believe))\b"
    r"|^[^\S\n]*(?:sure|certainly|of course|okay|ok|i['’]?m sorry|sorry|i apologi[sz]e|thank)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""Words of a text about an instruction, which is not the instruction."""

_CANNOT = _words(
    "can't, cannot, can not, couldn't, could not, am unable, 'm unable, am not able, 'm not able, won't, "
    "will not, do not, don't, am not, 'm not, unable, not able, must decline, have to decline, didn't, "
    "did not"
)
_MISSING = _words("instruction, information, context, details, pairs, examples, original, prompt, task")
_ME = rf"[^\n]{{0,60}}?\bi\b[^\n]{{0,30}}{_CANNOT}"
REFUSAL = re.compile(
    r"[\s\"'“*_]*"
    + _any(
        rf"(?:(?:i['’]?m|i am|we['’]re|we are) )?(?:(?:very|so|really|truly|terribly) )?sorry\b{_ME}",
        r"(?:(?:i['’]?m|i am|we['’]re|we are) )(?:(?:very|so|really|truly|terribly) )?sorry,? (?:but|no)\b",
        r"sorry,? (?:but|no,)",
        rf"(?:i apologi[sz]e|my apologies|apologies|unfortunately|regrettably|i['’]?m afraid|"
        rf"i am afraid)\b{_ME}",
        rf"i regret\b{_ME}",
        r"as an? (?:\w+ ){0,2}(?:ai|artificial intelligence|language model|llm|assistant|machine)\b" + _ME,
        r"i(?: am|['’]m) (?:just )?an? (?:\w+ ){0,2}(?:ai|language model|llm|assistant|chatbot)\b",
        r"i(?: can['’]?t| cannot| can not| won['’]t| will not)\b",
        r"i(?: am|['’]m) (?:not able|unable|not sure|not certain)\b",
        r"i (?:must|have to) decline\b",
        r"i (?:don['’]t|do not) (?:have (?:enough|access|the|any|personal|sufficient)|know|see|understand|"
        r"think i can|feel comfortable)\b",
        rf"(?:to help you, )?i(?:['’]d| would)? need (?:more|the|to see|some)\b[^\n]{{0,40}}\b{_MISSING}\b",
        r"(?:it is|it['’]s) (?:not possible|impossible|difficult|unclear|hard)\b[^\n]{0,60}\b(?:instruction|"
        r"determine|infer|know|say)\b",
        r"(?:there is|there['’]s|there are) (?:not enough|no|insufficient)\b[^\n]{0,60}\b(?:information|"
        r"instruction|"
        r"context|pattern)\b",
        r"there (?:doesn['’]t|does not|don['’]t|isn['’]t|is not)\b[^\n]{0,40}\binstruction",
        rf"without (?:more|further|additional)\b[^\n]{{0,60}}\b{_MISSING}\b[^\n]{{0,60}}(?:{_CANNOT}|"
        rf"impossible|"
        r"difficult|hard)",
        rf"(?:could|can|would) you (?:please )?(?:provide|clarify|share|give|tell|"
        rf"specify)\b[^\n]{{0,40}}\b(?:the|"
        rf"more|your|additional|some) (?:\w+[- ]){{0,2}}{_MISSING}\b",
        rf"(?:please )?(?:provide|share|give) (?:me )?(?:with )?(?:the|more|your|some|"
        rf"additional)\b[^\n]{{0,40}}"
        rf"\b{_MISSING}\b[^\n]{{0,60}}(?:so (?:that )?i|and i['’]?l?l?|you(?:['’]d| would) like|for me|"
        rf"i can)\b",
        r"no instruction (?:was|is|can|could)\b",
        r"(?:this|your|the) (?:request|content|instruction)\b[^\n]{0,40}\b(?:violates|goes against|"
        r"is inappropriate)\b",
        r"(?:content )?policy violation\b",
        r"(?:(?:hello|hi)\b[!., ]+)?how (?:can|may) i (?:assist|help) you\b",
        r"please (?:provide|share) (?:me )?(?:with )?(?:the|your) (?:original )?(?:instructions?|prompts?|"
        r"pairs|"
        r"input[-/ ]output pairs)\b",
        r"it (?:seems|looks|appears)(?: like| that)? (?:you (?:haven['’]t|have not|didn['’]t|did not|forgot)|"
        r"your (?:message|request|input|instruction) (?:was|is|got|has been))\b",
        r"es tut mir leid|tut mir leid|leider kann ich|je suis désolée?|désolée?,|lo siento|mi dispiace",
        r"desculpe|sinto muito|к сожалению|извините|抱歉|对不起|很抱歉|申し訳|すみません|죄송",
    ),
    re.IGNORECASE,
)
"""Beginning of an answer that refuses, or asks back, instead of giving an instruction."""
