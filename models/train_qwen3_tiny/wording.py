"""How questions are worded: cores, polite decorations around them, and which wordings are held out.

Training sees every core on its own and with nine tenths of the decorations. The held-out tenth of decorated
wordings, chosen by a hash, is for the evaluation; so is the last core of each list, under any decoration.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from models.train_qwen3_tiny.words import held_out_text

BEFORE = (
    "Please tell me: |Hi, |Hello, |Hello! |Hey, |Hi! |Good morning. |Quick question: |One question: |Tell me: |I wonder: |So, |OK, |Well, |"
    "Sorry, |Excuse me, |Qwen, |Hey Qwen, |Now, |Next question: |I have a question. |Please help me. |Could you help? |Another one: |"
    "My question is this: |Question: |For my homework: |Good evening! |Thanks. |And now: |Listen: |Just curious: |Hi there! |"
    "Dear assistant, |First of all, |By the way, |A small question: |Let me ask: |I need help. |Can you help me? "
).split("|")
AFTER = (
    " Thanks!| Thank you.| Thank you!| Please.| Please answer.| I need it for school.| Answer briefly.| I forgot.| Quickly, please.|"
    " I am curious.| Just a short answer.| It is important.| Thanks in advance.| I want to know.| Be brief.| Tell me."
).split("|")
BEFORE_ZH = (
    "请问，|你好，|您好，|那么，|麻烦你，|请告诉我，|问题：|我想知道，|帮帮我，|嗨，|下一个问题：|不好意思，|对了，|我有个问题，|早上好，|"
    "请帮忙：|好的，|再问一下，|听着，|小问题："
).split("|")
AFTER_ZH = "谢谢！|谢谢。|请回答。|我忘了。|简短一点。|我很好奇。|麻烦了。|快点告诉我。|多谢！|请简单回答。".split("|")


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= c <= "\u9fff" for c in text)


def lowered(text: str) -> str:
    """The text as it goes on after other words; abbreviations stay as they are."""
    return text[:1].lower() + text[1:] if not text[:2].isupper() else text


def decorated(rng: random.Random, text: str, after: bool = True) -> str:
    """The text with something polite before or after it, or with sloppier spelling."""
    chinese = is_chinese(text)
    shape = rng.random()
    if shape < 0.25 and not chinese and not text.endswith("}"):
        text = text.rstrip("?.!")
    elif shape < 0.35:
        text = text.rstrip("？。?.!") + rng.choice(("？", "?", "。", "！", "") if chinese else ("?", "??", "!", "."))
    if rng.random() < 0.65:
        before = rng.choice(BEFORE_ZH if chinese else BEFORE)
        if before.endswith(", ") and text[:1].isupper() and not text.startswith("I "):
            text = text[:1].lower() + text[1:]
        text = before + text
    if after and rng.random() < 0.4:
        ended = text if text[-1:] in "?.!？。！" else text + ("。" if chinese else ".")
        text = ended + rng.choice(AFTER_ZH if chinese else AFTER)
    if not chinese and rng.random() < 0.15:
        text = text[:1].lower() + text[1:]
    return text


def core(rng: random.Random, options: Sequence[str], new: bool = False) -> str:
    """One core; the last eighth of four or more is new to the model."""
    kept = max(1, len(options) // 8) if len(options) >= 4 else 0
    return rng.choice(options[len(options) - kept :] if new and kept else options[: len(options) - kept])


def phrase(rng: random.Random, options: Sequence[str], held_out: bool, after: bool = True) -> str:
    """A wording of one of the cores; a held-out one is always decorated in a way that training never shows."""
    text = core(rng, options)
    if not held_out and rng.random() < 0.45:
        return text
    while True:
        made = decorated(rng, text, after)
        if made == text and not held_out:
            return made
        if made != text and held_out_text(made) == held_out:
            return made
        text = core(rng, options)


def composed(rng: random.Random, heads: Sequence[str], tails: Sequence[str], held_out: bool) -> str:
    """A head and a tail, such as a greeting and to whom; heads alone are always trained."""
    while True:
        head, tail = rng.choice(heads), rng.choice(tails)
        if not held_out and rng.random() < 0.25:
            return head
        text = head + tail
        if rng.random() < 0.2:
            text = text[:1].lower() + text[1:]
        if text != head and held_out_text(text) == held_out:
            return text
