"""Patterns of the labels of options: letters, Roman numerals and digits, in the forms that models write."""

from __future__ import annotations

import re

from zopo_fast._utils.text import nfkc

SEVERAL = "?"
"""Takes the place of the label of an answer that picks several options."""
_BE = (
    r"(?:(?:is|was|would be|should be|must be|could be|might be|has to be|ist|lautet|est|es|é|è|är|er|to)\b"
    r"|=|:|：|是|为|為|は|은|는|هي|هو|คือ)"
)
_ADJECTIVE = r"(?:\s+(?:correcta|correcte|correta|corretta|giusta|richtige|exacte|justa|certa))?"
_NAMES = nfkc(
    r"(?i:\b(?:answer|antwort|antwoord|réponse|respuesta|risposta|resposta|ответ|odpowiedź|svaret|svar|cevap)\b)"
    r"|答案|选项|選項|应?选择?|應?選擇?|正解|答え|正しいのは|정답|답|उत्तर|คำตอบ|الإجابة|الجواب"
)
_WITH_BE = r"(?i:\b(?:option|choice|richtig|one)\b)"  # "option A" names an option only
_WITH_COLON = (
    r"(?i:\b(?:ans|solution|response|result|output|letter|label|prediction|conclusion|selection|lösung)\b\.?)"
)
_OPENING = r"[*_`\"'“‘$]{0,3}"
# Not after a label: letters and digits of scripts that write blanks, and "B's", "B-", "B+".
_END = r"(?![^\W\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]|[/+#%-]|['’]\w|[.,:]\d)"
_GOES_ON = r"(?!\s+(?!(?:because|since|as|and|or|not|is|for|but)\b)[a-z])"
NEGATED = re.compile(
    r"[)\].*_\s]{0,4}(?:is|are|was|can|does)(?:n['’]t|\s?not|\s+(?:wrong|incorrect|false|out|impossible|ruled))\b"
)


class Labels:
    """Patterns of one kind of labels.

    Args:
        label: pattern of a label.
        sure: pattern of a label that begins no phrase; "A dog" and "I see" begin with a letter.
        capital: pattern of a label in capitals.
        may_be_text: whether a label alone may be the text of an answer, as a number may.
    """

    def __init__(self, label: str, sure: str, capital: str, *, may_be_text: bool) -> None:
        self.may_be_text = may_be_text
        goes_on = _GOES_ON if may_be_text else ""

        def one(name: str) -> str:
            # "B", "(B)", "[b]", "b." and "B" in bold.
            return (
                rf"{_OPENING}(?:[(\[]\s?(?P<{name}1>{label})\s?[)\]]|(?P<{name}2>{label})[).](?!\w)"
                rf"|(?P<{name}3>{sure}){_END}{goes_on}|(?P<{name}4>{label}){_END}(?!\s+[a-z]))"
            )

        dash = "" if may_be_text else rf"|({label})\s+[-–—|]\s+"
        self.any = re.compile(one("l"))
        self.option = re.compile(
            rf"\s*(?:(?i:option|choice|statement)\s+)?"
            rf"(?:\(({label})\)|\[({label})\]|({label})\)|({label})[.:\]](?=\s|$){dash}"
            rf"|({capital})(?=[,;!?](?:\s|$)|\s+\()|({label})\s*$)[\s:.,;!?\-–—]*"
        )
        self.announced = re.compile(
            rf"(?:(?:{_NAMES}){_ADJECTIVE}|{_WITH_BE}(?=[*_\"]{{0,3}}\s*{_BE})"
            rf"|{_WITH_COLON}(?=[*_\"]{{0,3}}\s?[:：=(]))"
            rf"[*_\"]{{0,3}}(?i:\s*{_BE})?(?:\s[-–—](?=\s))?[\s:：=*_\"]{{0,6}}"
            r"(?i:(?:is\s+)?(?:(?:the|la|die|l['’])\s*)?(?:option|choice|letter|answer|opción|opção)?"
            r"[\s:*_]{0,4})" + one("a")
        )
        self.chosen = re.compile(
            r"(?i:\b(?:choose|chose|pick|select|go with|going with|it is|it['’]s|would be|must be|has to be"
            r"|would say|['’]d say|leaving)\s+(?:option\s+)?)" + one("c")
        )
        self.concluded = re.compile(
            r"(?i:\b(?:therefore|thus|hence|so|definitely|clearly|donc|also|por tanto|итак)\b,?\s+)"
            rf"{_OPENING}[(\[]?({capital})[)\]]?(?=['\"’”*_`$]{{0,3}}\s{{0,4}}(?:[.;!]|\Z|\n))"
        )
        self.reversed = re.compile(
            rf"(?<![\w(])\(?({capital})\)?\s+(?:(?:is|seems|looks)\s+(?:the\s+)?"
            r"(?:correct|right|best)(?:\s+(?:answer|option|choice))?|remains\b)"
        )
        self.named = re.compile(
            rf"[(\[]({label})[)\]]|(?<![\w(])({capital})\)|(?i:\b(?:option|choice|statement)\s+)({label})\b"
        )
        self.joined = re.compile(
            rf"[)\].]?{_OPENING}\s*(?:,|/|&|\+|\bor\b|\band\b)\s*(?:\bor\b|\band\b)?\s*" + one("j")
        )
        self.joined_later = re.compile(
            r"(?:[,;/&|]\s{0,3}|\bor\s{1,3}|\band\s{1,3}|[)\]]\s{1,3}(?=\())(?:(?i:or|and|option)\s)?"
            rf"[(\[]?({capital})[)\].:](?!\w|\s+(?:is|are|was|would|does|has|can)\b)"
        )
        self.starts = re.compile(_OPENING + rf"({capital})\s+(?:is|because|since|as)\b")
        self.answer_mark = re.compile(rf"\AA:\s+(?=\(?{label}(?:[).]|$))")  # "A: B", where "A" is no option
        self.line_label = re.compile(
            rf"^\s{{0,8}}(?:[-*•]\s)?{_OPENING}(?:(?i:option|choice|statement)\s)?\(?({label})(?:[).:](?=\s)|[^\S\n]{{0,4}}$)",
            re.MULTILINE,
        )
        self.negated = re.compile(rf"(?<!\w)({capital}){NEGATED.pattern}")


KINDS = (
    Labels("[A-Za-z]", "[B-HJ-Z]", "[A-Z]", may_be_text=False),
    Labels("(?:[IVX]{2,5}|[ivx]{2,5}|[IVXivx])", "[IVX]{1,5}", "[IVX]{1,5}", may_be_text=True),
    Labels(r"(?<![\d.,])[0-9]{1,2}(?![.,]?[0-9])", r"[0-9]{1,2}", r"[0-9]{1,2}", may_be_text=True),
)
