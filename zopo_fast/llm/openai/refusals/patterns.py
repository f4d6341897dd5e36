"""Codes and words by which providers state their refusals; codes match in full and in lower case."""

from __future__ import annotations

import re

CONTENT_CODES = re.compile(
    r"content_?filter\w*|content_?policy\w*|responsibleai\w*|\w*moderation\w*|safety|recitation|"
    r"prompt_?blocked|blocked|blocklist|prohibited_content|spii|content_?blocked|invalid_prompt|"
    r"data_?inspection_?failed|\w*policy_?violation\w*|sensitive\w*|jailbreak|flagged|content_violation"
)
CONTENT_TEXT = re.compile(
    r"content management policy|content[ _]filter|content polic|usage polic|flagged|moderation|"
    r"safety (?:system|setting|reason|filter)|content exists risk|inappropriate content|"
    r"blocked by (?:the )?(?:safety|content)|responsible ai|prohibited content|sensitive (?:words|content)|"
    r"violat\w+ [\w ]{0,30}(?:polic|guideline)",
    re.IGNORECASE,
)
LENGTH_CODES = re.compile(
    r"context_(?:length|window)_exceeded\w*|exceed_context_size\w*|string_above_max_length|string_too_long|"
    r"request_too_large|prompt_too_long|input_too_long|tokens_limit_reached|\w*max_prompt_tokens\w*|"
    r"token_limit_exceeded|context_too_long"
)
LENGTH_TEXT = re.compile(
    r"context[ _]?(?:length|window|size|limit)|maximum (?:model|input|prompt|sequence|context) length|"
    r"(?:prompt|input|request|message)s? (?:is|are) too (?:long|large)|prompt too long|"
    r"input token count|reduce the length|too large for model with|max_?model_?len|"
    r"must have less than \d+ tokens|"
    r"max_(?:completion_)?tokens must be at least 1, got -|`?max_new_tokens`? must be|"
    r"maximum number of (?:input )?tokens|"
    r"(?:input|prompt) length .{0,40}exceeds|request too large for|context the overflows|"
    r"too many tokens|exceeds? the (?:maximum|max)\w* (?:number of )?(?:input )?tokens|longer than the model",
    re.IGNORECASE,
)
CUT_TEXT = re.compile(r"max_(?:completion_)?tokens or model output limit was reached", re.IGNORECASE)
QUOTA_CODES = re.compile(
    r"insufficient_\w*(?:quota|balance|credits?|funds)|billing\w*|payment_?required|credits?_exhausted|"
    r"arrearage|overdue\w*|budget_exceeded|exceeded_(?:current_)?quota\w*|quota_?(?:exceeded|exhausted)\w*|"
    r"\w*(?:balance|credits?)_(?:too_low|exhausted|depleted|insufficient)|no_(?:balance|credits?)"
)
QUOTA_TEXT = re.compile(
    r"insufficient_quota|credit balance|insufficient (?:account )?(?:balance|credits?|funds|quota)|"
    r"(?:more|out of|enough|no) credits|billing (?:hard limit|not active)|arrear|overdue payment|"
    r"account (?:\w+ )?balance (?:is|of \S+ is) (?:negative|too low|insufficient|not enough|below)|"
    r"balance (?:is )?not enough|(?:reached|exceeded) (?:your|the) (?:specified |monthly |\w+ )?(?:api )?"
    r"(?:usage|spend(?:ing)?) limit",
    re.IGNORECASE,
)
KEY_CODES = re.compile(
    r"(?:invalid|incorrect|missing|expired)_api_?key|api_?key_(?:invalid|expired)|authentication_error|"
    r"invalid_authentication\w*|unauthenticated|unauthorized"
)
KEY_TEXT = re.compile(
    r"api key not valid|(?:invalid|incorrect|missing|expired) api[ -]?key|no auth credentials", re.IGNORECASE
)
MODEL_CODES = re.compile(
    r"\w*model_?not_?(?:found|available|supported|exist)\w*|deployment_?not_?found|unknown_model|"
    r"invalid_model\w*|no_such_model|model_decommissioned|model_terms_required|operation_?not_?supported"
)
MODEL_TEXT = re.compile(
    r"not a valid model|invalid model\b|model \S+ (?:does not exist|not found|is not supported)|"
    r"the model .{1,80} has been decommissioned|no such model|unknown model|model_not_found|"
    r"no models? loaded|not a chat model|does not support chat|chat template|"
    r"model (?:identifier|id|name) is (?:invalid|not valid|unknown)|on-demand throughput isn.?t supported",
    re.IGNORECASE,
)
RATE_CODES = re.compile(
    r"rate_?limit\w*|too_?many_?requests|resource_?exhausted|throttl[\w.]+|limit_requests|limit_tokens|"
    r"tokens_per_\w+|requests_per_\w+"
)
OVERLOAD_CODES = re.compile(
    r"\w*overloaded\w*|(?:service_?)?unavailable\w*|(?:capacity|over)_?(?:exceeded|capacity)\w*"
)
SERVER_CODES = re.compile(r"api_error|server_error|internal(?:_server)?_?error|upstream_error")
FIELD_CODES = re.compile(
    r"un(?:supported|known|recognized)_(?:parameter|value|field|argument)|extra_forbidden|invalid_parameter\w*"
)
FIELD_TEXT = re.compile(
    r"un(?:supported|known|recogni[sz]ed|expected)|invalid|extra (?:inputs|data)|not (?:a )?recogni[sz]ed|"
    r"not (?:supported|permitted|allowed|accept\w*|available)|deprecated|cannot (?:be|both) |only |"
    r"(?:does not|doesn't|don't|cannot) (?:support|accept)|must (?:be|have)|should be|range of|out of range|"
    r"cannot find field|maximum allowed|exceeds?|(?:less|greater|more) than|at most|"
    r"at the same time|too (?:large|small|high|low)",
    re.IGNORECASE,
)
ROLE_TEXT = re.compile(
    r"(?:system|developer) (?:role|message|prompt|instruction)s? (?:\w+ )?(?:is |are )?not "
    r"(?:supported|enabled|allowed|available|permitted)|"
    r"(?:role|'?system'?|developer).{0,40}(?:does not support|not supported)|"
    r"(?:does not|doesn't) support (?:the )?['\"`]?(?:system|developer)\b|roles must alternate|"
    r"only ['\"`]?(?:user|assistant)['\"`]?[\w ,'\"`]{0,40}roles? (?:are|is) (?:supported|allowed)",
    re.IGNORECASE,
)
DATA_PARAMS = re.compile(r"(?:messages|input|prompt|contents?)(?:$|[.\[])")

BLOCKED_CODES = re.compile(
    r"access_?(?:terminated|revoked|suspended)\w*|"
    r"(?:account|organi[sz]ation|org|project|workspace|user|team|subscription|consumer)_?(?:is_)?"
    r"(?:deactivated|suspended|disabled|terminated|restricted|blocked|banned|closed|locked|frozen)\w*"
)
BLOCKED_TEXT = re.compile(
    r"\b(?:account|organi[sz]ation|project|workspace|team|subscription|access)\b"
    r"[^.]{0,80}?\b(?:has been|have been|is|was|been)\b(?: \w+){0,2}? "
    r"(?:disabled|deactivated|suspended|terminated|restricted|banned|revoked|closed|locked|frozen)\b|"
    r"\b(?:account|organi[sz]ation|workspace) (?:has been|is|was) (?:flagged|blocked)\b",
    re.IGNORECASE,
)
PLACE_TEXT = re.compile(
    r"(?:location|country|region|territory)\b.{0,40}(?:is not|isn.?t|not) (?:supported|available|allowed)|"
    r"not (?:supported|available) in your (?:location|country|region|territory)",
    re.IGNORECASE,
)
RATE_TEXT = re.compile(
    r"throttling|\bratelimiterror\b|rate limit (?:exceeded|reached|error)|too many requests|"
    r"too many tokens,? (?:please )?(?:wait|slow|try)|please wait before trying",
    re.IGNORECASE,
)
PER_TIME_TEXT = re.compile(r"\bper[ _-]?(?:second|minute|min|hour)\b|\b[rt]pm\b|\bper 1 ?m", re.IGNORECASE)
UNLOADED_TEXT = re.compile(
    r"model (?:is |was |has been |has )?(?:unloaded|crashed|reloading)|"
    r"model (?:\S+ )?is (?:still |currently |being )?loading",
    re.IGNORECASE,
)
VERSION_TEXT = re.compile(
    r"\bapi[ _-]?versions?\b.{0,60}(?:not supported|unsupported|invalid|required|and later)|"
    r"(?:only|required|missing|unsupported|invalid).{0,40}\bapi[ _-]?version",
    re.IGNORECASE,
)
STREAM_TEXT = re.compile(
    r"only supports? (?:the )?stream|stream(?:ing)? mode|non-?streaming (?:calls|requests)|"
    r"streaming is required|must (?:be set to|use) stream|please enable the stream",
    re.IGNORECASE,
)
LIMITS = (
    "max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens", "n_predict", "num_predict",
)  # fmt: skip
"""Parameters of the body whose value an error about lengths may refuse."""
ABOUT_INPUT = re.compile(r"\b(?:input|prompt|message)s?\b|\bgot -\d+", re.IGNORECASE)
"""Text of an error about lengths that a shorter input cures; vLLM may say what room the input leaves."""
FAILED_LENGTH_TEXT = re.compile(
    r"(?:input|prompt|request)\b.{0,40}exceeds?\b.{0,40}\bcontext|\binput is too large to process|"
    r"\d+ tokens\)? exceeds?\b.{0,40}\bcontext|context_?window_?exceeded|"
    r"maximum context length is \d+ tokens",
    re.IGNORECASE,
)
"""Text about lengths of servers that answer a prompt beyond their context with 500, as llama.cpp does."""
