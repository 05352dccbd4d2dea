"""What a question asks for, as far as plain rules can tell: whether two questions may have one answer. Pure.

Sentence embeddings hardly see a changed number, name or negation, nor that two things have changed places. So likeness
alone decides nothing: two texts may share an answer only where these rules reduce them to the same. The rules take away
words that only ask (please, tell me, what, the) and keep everything else, in its order: numbers, units, dates, names,
negations, and whoever does what to whom. A word that they do not know is kept. They know English and Chinese; in other
languages texts must be equal but for case, spaces and punctuation.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple


class Asked(NamedTuple):
    """A text reduced: its language, what kind of answer it wants, what stands in quotation marks, and all else."""

    language: str
    kind: str
    quoted: tuple[str, ...]
    rest: tuple[str, ...]


_QUOTED = re.compile(r"“([^”]*)”|\"([^\"]*)\"|「([^」]*)」|『([^』]*)』|《([^》]*)》|`([^`]*)`|‘([^’]*)’")
# Stands where the quotation stood.
_QUOTE = " \ufffc "

_HAN = re.compile(r"[\u3400-\u9fff]")
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", _HAN),
    ("cyrillic", re.compile(r"[\u0400-\u04ff]")),
    ("arabic", re.compile(r"[\u0600-\u06ff]")),
    ("thai", re.compile(r"[\u0e00-\u0e7f]")),
    ("greek", re.compile(r"[\u0370-\u03ff]")),
    ("hebrew", re.compile(r"[\u0590-\u05ff]")),
    ("hindi", re.compile(r"[\u0900-\u097f]")),
)
# Words that are frequent in one of these languages and in none of the others.
_FREQUENT = {
    "en": "the is are what which who how does did do can you my me please of and for with when where why tell write it",
    "de": "der die das ist sind was welche wer wie kann ich mir bitte und nicht ein eine wann wo warum mit von zu",
    "fr": "le les est sont quel quelle qui comment peux je moi et une des du pourquoi avec dans pour vous",
    "es": "el los es son cuál quién cómo puedo yo por y una qué dónde cuándo con para del",
    "it": "il gli sono quale chi come posso io per e una che dove quando perché con della di",
    "pt": "os são qual quem como posso eu por uma que onde quando com para do da não você",
    "nl": "het een zijn wat welke wie hoe kan ik mij en van niet waar wanneer waarom met",
}
_LANGUAGE_OF_WORD = {
    word: language
    for language, words in _FREQUENT.items()
    for word in words.split()
    if sum(word in others.split() for others in _FREQUENT.values()) == 1
}


def asked(text: str) -> Asked:
    """Returns what a text asks for."""
    # Quotation marks and the minus sign first: normalizing would change some of them.
    text = text.replace("\u2212", "-").replace("\u2018s ", "'s ").replace("\u2019", "'")
    quoted = tuple(" ".join("".join(found.groups("")).split()) for found in _QUOTED.finditer(text))
    text = unicodedata.normalize("NFKC", _QUOTED.sub(_QUOTE, text))
    language = _language(text)
    if language == "zh":
        kind, rest = _chinese(text)
    elif language == "en":
        kind, rest = _english(text)
    else:
        kind, rest = "", _words(text.lower())
    return Asked(language, kind, quoted, tuple(rest))


def same(one: Asked, other: Asked) -> bool:
    """Whether two texts may have one answer. Nothing is the same as a text of which nothing is left."""
    return one == other and bool(one.rest or one.quoted)


def _language(text: str) -> str:
    for language, script in _SCRIPTS:
        if script.search(text):
            return language
    found: dict[str, int] = {}
    for word in re.findall(r"[^\W\d_]+", text.lower()):
        if word in _LANGUAGE_OF_WORD:
            found[_LANGUAGE_OF_WORD[word]] = found.get(_LANGUAGE_OF_WORD[word], 0) + 1
    if not found:
        return "en"  # whose rules only take away English words
    best = max(found, key=lambda language: found[language])
    return best if list(found.values()).count(found[best]) == 1 else ""


# A sign before a number, and what belongs to it, are part of it.
_NUMBER = r"(?<![A-Za-z0-9_.])[-+]?[$€£¥]?\d+(?:[.,:/]\d+)*%?"
_REST = r"\d+|\ufffc|[%$€£¥°+*/=<>^&@#~|()\[\]{}_\\-]"
_WORD = re.compile(rf"{_NUMBER}|[^\W\d_]+(?:'[^\W\d_]+)*|{_REST}")


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


# --- English ---

# Longer ones before shorter ones that they begin with.
_EN_LEADS = re.compile(
    r"^(?:(?:please|kindly|hello|hi|hey|ok|okay|so|and|well|thanks|thank you|excuse me|"
    r"(?:can|could|would|will) you (?:please |kindly )?(?:tell|show|give) me|"
    r"(?:can|could|would|will) you (?:please |kindly )?(?=[a-z])(?!be\b|have\b|get\b|call\b|see\b)|"
    r"(?:do|does) (?:you|anyone|anybody) know|i (?:want|would like|'d like|need) to know|i wonder|"
    r"(?:do you think|is it true that)|(?:just )?(?:tell|show|give) me|calculate|compute|work out)\b[\s,.!:]*)+"
)
_EN_TAILS = re.compile(r"[\s,.!?]*\b(?:please|thanks|thank you)[\s.!?]*$")
_EN_CONTRACTIONS = (
    (re.compile(r"\bcan't\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"\b(what|who|where|when|how|why|that|there|it|he|she)'s\b"), r"\1 is"),
    (re.compile(r"'(?:re)\b"), " are"),
    (re.compile(r"\bi(?:'m| am)\b"), "i"),
    (re.compile(r"^will "), ""),
    # What only asks, in more words.
    (
        re.compile(
            r"\bhow long (?:does it take|should (?:i|you|we)|(?:do|would) (?:i|you|we) (?:need|have))(?: to)?\b"
        ),
        "how long",
    ),
    (re.compile(r"\bhow much (is|are)\b"), r"what \1"),
    (re.compile(r"\bin (?:the year )?(?=[12]\d\d\d\b)"), "of "),
    # "Hamlet's plot" is the plot of Hamlet.
    (re.compile(r"\b(?:the |a |an )?([^\W_]+)'s? ([^\W_]+)\b(?!')"), r"the \2 of \1"),
)
# What a question wants, by how it begins. What is not matched is kept, and so decides too.
_EN_KINDS = (
    (r"(?:in|on|at) (?:which|what) (?:year|date|day)\b|when\b", "when"),
    (r"where\b", "where"),
    (r"why\b|for what reason\b", "why"),
    (r"(?:who|whom)\b", "who"),
    (r"how (many|much|long|far|old|often|tall|fast|big|large|deep|high|heavy)\b", "how much"),
    (r"(?:how|what(?: is| are)? the(?: best)? way to|(?=what do i do to))\b", "how"),
    (r"(?:what|which)\b", ""),
    (r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|shall|may|must)\b", "yes or no"),
)
_EN_KINDS_COMPILED = tuple((re.compile(pattern), kind) for pattern, kind in _EN_KINDS)


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_EN_EMPTY = _set_of("a an the of is are was were be been being do does did there it this")
# The first of them is who asks, or anybody; any further one is somebody.
_EN_ANYBODY = frozenset({"i", "we", "you"})
# "Vitamin A" and "World War I": letters, and no words. The same holds for what is written in capitals.
_EN_LETTER = re.compile(r"(?<=[a-z,] )([A-Z]\w+ |[a-z]+ (?=A\b))(I|A)\b")
_EN_CAPITALS = re.compile(r"\b(IT|US|WHO|AM|IS|DO|BE|AN|OF|WE)\b")
_EN_HOW_EMPTY = _set_of("can could should")
_EN_PAST = _set_of("was were did had")
_EN_SPELLINGS = {
    "kilometre": "km kilometer",
    "metre": "meter",
    "centimetre": "cm centimeter",
    "kilogram": "kg",
    "litre": "liter",
    "minute": "min",
    "percent": "%",
    "dollar": "$ usd",
    "euro": "€ eur",
    "pound": "£",
    "monday": "mon",
    "tuesday": "tue",
    "wednesday": "wed",
    "thursday": "thu",
    "friday": "fri",
    "saturday": "sat",
    "sunday": "sun",
    "to": "into",
}
_EN_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_EN_SAME = {
    **{other: name for name, others in _EN_SPELLINGS.items() for other in others.split()},
    **{word: str(number) for number, word in enumerate(_EN_NUMBERS.split())},
}


def _english(text: str) -> tuple[str, list[str]]:
    text = _EN_LETTER.sub(r"\1letter\2", text)
    if not text.isupper():
        text = _EN_CAPITALS.sub(r"letters\1", text)
    text = " ".join(text.lower().split())
    for pattern, plain in _EN_CONTRACTIONS:
        text = pattern.sub(plain, text)
    text = _EN_TAILS.sub("", _EN_LEADS.sub("", text))
    kind = ""
    first = ""
    for pattern, name in _EN_KINDS_COMPILED:
        begin = pattern.match(text)
        if begin is not None:
            kind, first = name, begin.group()
            if name != "yes or no":
                text = text[begin.end() :]
            break
    if kind == "how much":
        kind = first
    words = _words(text)
    if _EN_PAST.intersection(words):
        kind += " past"
    # In "how can I" the verb only asks; in "can I" and "how long can I" it is part of the question.
    empty = _EN_EMPTY | _EN_HOW_EMPTY if kind == "how" else _EN_EMPTY
    anybody = next((place for place, word in enumerate(words) if word in _EN_ANYBODY), -1)
    return kind, [_en_stem(word) for place, word in enumerate(words) if word not in empty and place != anybody]


def _en_stem(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return _EN_SAME.get(word, word)


# --- Chinese ---

_ZH_LEADS = re.compile(
    r"^(?:计算一?下?|[求算](?=\d)|算一?下|请问|请你?帮我|请你?给我|请你|请|麻烦你?|帮我|帮忙|你好|您好|告诉我|给我|我想知道|我想问|想问一?下|你知道|"
    r"你觉得|您觉得|(?:能|可以|能不能|可不可以)(?:帮我|给我|告诉我)|查一?下|说说|[,，。!！\s])+"
)
_ZH_SAME = (
    (r"(.)不\1", r"\1吗"),  # 是不是, 能不能
    (r"为何|为啥|什么原因|出于什么原因", "为什么"),
    (r"如何|怎样|怎么样|咋", "怎么"),
    (r"什么时间|什么时候|何时|哪一?年|几时", "何时"),
    (r"多长时间|多久", "多久"),
    (r"哪(?:里|儿|座城市|个城市|一个|个|位|条|些|一些|种)", "什么"),
    (r"等于多少|是几", "是多少"),
    (r"有几|几(?=[天个月年小])", "多少"),
    # "A有什么B" asks the same as "A的B是什么".
    (r"^(.+?)有?(?<!为)(什么|多少)([^是什么多少]+)$", r"\1的\3是\2"),
    (r"将", "把"),
    (r"可以|能够|能", "能"),
    (r"应该|应当|该", "应"),
    (r"需要|要", "要"),
    (r"之前|以前", "前"),
    (r"之后|以后", "后"),
    (r"星期|礼拜", "周"),
    (r"周天", "周日"),
    (r"的时候|时候", "时"),
    (r"翻译[成为]", "翻译成"),
    (r"换算[成为]", "换算成"),
    (r"里面|里", "里"),
    (r"块钱", "元"),
    (r"从(.+?)去", r"从\1到"),
    (r"(?:我|我们)?[应要]?怎么[应要]?", "怎么"),
    (r"(?<![零一二三四五六七八九十百千万亿第])一(?=[个封首篇家条位本张份段句种])", ""),
)
_ZH_SAME_COMPILED = tuple((re.compile(pattern), plain) for pattern, plain in _ZH_SAME)
# Adverbs: wherever they stand, they ask the same.
_ZH_KINDS = (("为什么", "why"), ("怎么", "how"), ("何时", "when"), ("吗", "yes or no"))
# "谁是X" asks the same as "X是谁".
_ZH_TURNED = re.compile(r"^(谁|什么)是(.+)$")
_ZH_EMPTY = re.compile(r"[的了是有呢啊吧呀]|一下|一共|总共")
_ZH_DIGITS = {digit: str(number) for number, digit in enumerate("零一二三四五六七八九")} | {"两": "2", "〇": "0"}
# Of a text that has only these nothing is left.
_ZH_ASKS = frozenset("什么谁哪多少几")
_ZH_TOKEN = re.compile(rf"{_NUMBER}|[A-Za-z\u00c0-\u024f]+|[\u3400-\u9fff]|{_REST}")


def _chinese(text: str) -> tuple[str, list[str]]:
    text = _ZH_LEADS.sub("", "".join(_spaced(text.lower())))
    text = re.sub(r"[?？。.!！\s]+$", "", text)
    for pattern, plain in _ZH_SAME_COMPILED:
        text = pattern.sub(plain, text)
    kinds = []
    for word, name in _ZH_KINDS:
        if word in text:
            kinds.append(name)
            text = text.replace(word, "")
    turned = _ZH_TURNED.match(text)
    if turned is not None:
        text = f"{turned[2]}是{turned[1]}"
    # "Calculate 200" and "how much is 200" ask the same.
    text = re.sub(r"是?多少$", "", text)
    text = _ZH_EMPTY.sub(" ", text)
    tokens = [_ZH_DIGITS.get(token, token) for token in _ZH_TOKEN.findall(text)]
    return " ".join(kinds), [] if _ZH_ASKS.issuperset(tokens) else tokens


def _spaced(text: str) -> list[str]:
    """Takes spaces away that stand beside a Chinese character: they are a matter of style."""
    return re.split(r"(?<=[\u3400-\u9fff\uff00-\uffef])\s+|\s+(?=[\u3400-\u9fff])", text.strip())
