"""Answers that refuse, or ask back, instead of giving an instruction."""

from __future__ import annotations

import re

from zopo_fast.prompts.phrases import any_of, words_of

_READ = 1000  # characters of an answer that are read

_CANNOT = words_of(
    "can't, cannot, can not, couldn't, could not, am unable, 'm unable, am not able, 'm not able, won't, "
    "will not, do not, don't, am not, 'm not, unable, not able, must decline, have to decline, didn't, "
    "did not"
)
_MISSING = words_of("instruction, information, context, details, pairs, examples, original, prompt, task")
_ME = rf"[^\n]{{0,60}}?\bi\b[^\n]{{0,30}}{_CANNOT}"
_OTHER_LANGUAGES = any_of(
    r"es tut mir leid|tut mir leid|leider kann ich|ich kann\b[^\n.]{0,60}\b(?:nicht|kein\w*)\b",
    r"je suis désolée?|désolée?,|je ne (?:peux|suis|sais|comprends|vois)\b|lo siento|no puedo\b|me temo que",
    r"mi dispiace|non (?:posso|sono in grado)\b|desculpe|sinto muito|(?:eu )?não (?:posso|consigo)\b",
    r"îmi pare rău|nu pot\b|het spijt me|helaas kan ik|ik kan\b[^\n.]{0,60}\b(?:niet|geen)\b",
    r"tyvärr|jag kan inte|beklager|jeg kan ikke|desværre|valitettavasti|olen pahoillani|sajnálom",
    r"przepraszam,|przykro mi|niestety,? nie|nie (?:mogę|jestem w stanie)\b|omlouvám se|bohužel",
    r"к сожалению|извините|простите|я не могу|вибачте|на жаль|λυπάμαι|δυστυχώς",
    r"üzgünüm|yardımcı olamam|maalesef|özür dilerim|xin lỗi,|rất tiếc|tôi không thể|maaf,",
    r"(?:मैं |हम )?(?:क्षमा|माफ़|माफ़|माफ) (?:चाहत|चाहें|कर|कीजिए)|मुझे (?:खेद|अफ़सोस|अफ़सोस|माफ)|"
    r"मैं [^\n।]{0,40}नहीं (?:कर )?सकत",
    r"عذر(?:ًا|اً|ا)[،, ]|آسفة?\b|أعتذر|للأسف|لا (?:أستطيع|يمكنني)|أنا آسف|מצטער|אני לא יכול|متأسفم|متاسفم",
    r"ขออภัย|ขอโทษ|(?:ฉัน|ผม|ดิฉัน)?ไม่สามารถ(?:ช่วย|ตอบ|ให้)|"
    r"お手伝いできません|도와드릴 수 없|[无無]法(?:协助|協助|回答|提供)|"
    r"抱歉(?!的)|对不起(?!的)|很抱歉|對不起(?!的)|我(?:无法|無法|不能)|申し訳|すみません|죄송",
)
_REFUSAL = re.compile(
    r"[\s\"'“*_]*(?:(?:thank you|thanks|hello|hi)\b[^\n.!?]{0,60}[.!,]\s+)?(?:but |however,? )?"
    + any_of(
        rf"(?:(?:i['’]?m|i am|we['’]re|we are) )?(?:(?:very|so|really|truly|terribly) )?sorry\b{_ME}",
        r"(?:(?:i['’]?m|i am|we['’]re|we are) )(?:(?:very|so|really|truly|terribly) )?sorry,? (?:but|no)\b",
        r"sorry,? (?:but|no,)",
        rf"(?:i apologi[sz]e|my apologies|apologies|unfortunately|regrettably|i['’]?m afraid|"
        rf"i am afraid)\b{_ME}",
        rf"i regret\b{_ME}",
        r"as an? (?:\w+ ){0,2}(?:ai|artificial intelligence|language model|llm|assistant|machine)\b" + _ME,
        r"i(?: am|['’]m) (?:just )?an? (?:\w+ ){0,2}(?:ai|language model|llm|assistant|chatbot)\b",
        r"(?:i|we)(?: can['’]?t| cannot| can not| won['’]t| will not)\b"
        r"(?! (?:stress|emphasi[sz]e|overstate))",
        r"i(?: am|['’]m) not comfortable\b",
        r"i(?: would|['’]d) rather not\b",
        r"i see no\b[^\n.]{0,40}\b(?:examples?|pairs?|instructions?|inputs?|text)\b",
        r"(?:that|this)(?: is|['’]s) not something i\b",
        r"you (?:haven['’]t|have not|didn['’]t|did not) (?:given|give|provided?|shared?|included?|told|"
        r"sent)\b",
        r"what would you like (?:me|us)\b",
        r"(?:i(?: would|['’]d) be|i(?: am|['’]m)) (?:happy|glad|pleased) to (?:help|"
        r"assist)\b[^\n.!]{0,60}[.!]\s+"
        r"(?:please|could you|can you)\b[^\n]{0,30}\b(?:provide|share|send|paste|give)\b(?: me)?(?: with)? "
        r"(?:the|your|some|more) (?:\w+[- ]){0,2}(?:text|examples?|pairs|instructions?|prompts?|input|"
        r"details|"
        r"information|context)\b(?![^\n]{0,10}['’]s)",
        r"(?:i|we)(?: am|['’]m| are|['’]re) "
        r"(?:unable|not (?:able|sure|certain|going to|allowed|permitted))\b",
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
        _OTHER_LANGUAGES,
    ),
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\s*(?:\"[^\"\n]{1,80}\"|“[^”\n]{1,80}”|'[^'\n]{1,40}'|‘[^’\n]{1,80}’)\s*[a-z(,]")
# "There is not enough information in some inputs; answer "unknown" for those."
_TASK_FOLLOWS = re.compile(
    r"[.;:!,]\s+(?:(?:so|then|now|please|instead|therefore|in (?:that|such|this|these) cases?)[, ]+)*"
    + words_of(
        "answer, write, output, reply, respond, return, label, classify, translate, summarize, summarise, "
        "rewrite, name, list, decide, mark, explain, convert, find, count, extract, say, use, print, put"
    )
    + r"\b",
    re.IGNORECASE,
)
_ABOUT_REQUEST = re.compile(
    r"\b(?:help|assist|comply|fulfil\w*|instructions?|pairs|request|your|sorry|apolog\w+|provided?|"
    r"determine|infer|ai|"
    r"language model)\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return True if an answer refuses, or asks back, instead of giving an instruction."""
    text = text[:_READ]
    if _REFUSAL.match(text) is None or _QUOTED.match(text) is not None:
        return False
    task = _TASK_FOLLOWS.search(text)
    return task is None or _ABOUT_REQUEST.search(text, 0, task.start()) is not None
