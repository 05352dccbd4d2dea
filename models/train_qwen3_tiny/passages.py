"""Long texts with something to find in them, and stories told on demand."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from models.train_qwen3_tiny import plots, words
from models.train_qwen3_tiny.chat import Exchange
from models.train_qwen3_tiny.talk import I_AM, I_AM_ZH, said
from models.train_qwen3_tiny.wording import core, phrase

TOKENS_PER_SENTENCE = 15
JOBS = "baker pilot teacher doctor farmer painter sailor lawyer nurse writer cook driver singer dentist judge gardener".split()


class Fact(NamedTuple):
    """A sentence to hide, the question it answers, and the answer."""

    sentence: str
    question: str
    thought: str
    answer: str
    value: str


def _fact(sentence: str, question: str, value: str, answer: str | None = None) -> Fact:
    return Fact(sentence, question, f"The text says: {sentence}", answer or sentence, value)


def _code_fact(rng: random.Random, held_out: bool) -> Fact:
    key = rng.choice(
        (
            rng.choice(words.NOUNS),
            f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}",
            words.invented(rng, held_out),
        )
    )
    kind = rng.choice(
        ("secret code", "password", "access code", "number", "magic number", "code", "secret word", "key")
    )
    value = words.invented(rng, held_out) if kind == "secret word" else words.code(rng)
    sentence = f"The {kind} of the {key} is {value}."
    ask = rng.choice(
        (f"What is the {kind} of the {key}?", f"Tell me the {kind} of the {key}.", f"Which {kind} does the {key} have?")
    )
    return _fact(sentence, ask, value)


def _person_fact(rng: random.Random, held_out: bool) -> Fact:
    who = words.person(rng, held_out)
    kind = rng.randrange(6)
    if kind == 0:
        place = words.town(rng, held_out)
        return _fact(f"{who} lives in {place}.", f"Where does {who} live?", place)
    if kind == 1:
        colour = rng.choice(words.COLOURS)
        return _fact(f"The favourite colour of {who} is {colour}.", f"What is the favourite colour of {who}?", colour)
    if kind == 2:
        job = rng.choice(JOBS)
        return _fact(f"{who} works as a {job}.", f"What is the job of {who}?", job)
    if kind == 3:
        hour = f"{rng.randint(1, 12)}:{rng.randrange(60):02d}"
        return _fact(f"The meeting with {who} is at {hour}.", f"When is the meeting with {who}?", hour)
    if kind == 4:
        number = words.digits(rng, rng.randint(4, 9))
        return _fact(f"The phone number of {who} is {number}.", f"What is the phone number of {who}?", number)
    pet = words.invented(rng, held_out).capitalize()
    animal = rng.choice(("dog", "cat", "horse", "bird"))
    return _fact(f"The {animal} of {who} is called {pet}.", f"What is the {animal} of {who} called?", pet)


def _thing_fact(rng: random.Random, held_out: bool) -> Fact:
    who, item, place = words.person(rng, held_out), rng.choice(words.ITEMS), rng.choice(words.PLACES)
    if rng.random() < 0.5:
        return _fact(f"{who} hid the {item} {place}.", f"Where did {who} hide the {item}?", place)
    adjective = rng.choice(words.ADJECTIVES)
    return _fact(f"The {adjective} {item} belongs to {who}.", f"Who owns the {adjective} {item}?", who)


def _single_fact(rng: random.Random, held_out: bool) -> Fact:
    """A fact that names no key: there is only one of its kind in the text."""
    value = rng.choice((words.code(rng), words.digits(rng, rng.randint(3, 8)), words.invented(rng, held_out)))
    kind = rng.choice(
        ("secret number", "magic word", "secret code", "password", "passkey", "pass key", "special number", "code word")
    )
    sentence = rng.choice(
        (f"The {kind} is {value}.", f"Remember: the {kind} is {value}.", f"The {kind} is {value}. Remember it.")
    )
    ask = rng.choice(
        (f"What is the {kind}?", f"Tell me the {kind}.", f"What was the {kind} in the text?", f"Find the {kind}.")
    )
    return Fact(sentence, ask, f"The text says that the {kind} is {value}.", f"The {kind} is {value}.", value)


def _fact_zh(rng: random.Random, held_out: bool) -> Fact:
    who = words.person_zh(rng, held_out)
    kind = rng.randrange(5)
    if kind == 0:
        place = words.town_zh(rng, held_out)
        sentence, ask, value = f"{who}住在{place}。", f"{who}住在哪里？", place
    elif kind == 1:
        number = words.digits(rng, rng.randint(3, 8))
        sentence, ask, value = f"{who}的电话号码是{number}。", f"{who}的电话号码是多少？", number
    elif kind == 2:
        value = words.code(rng)
        name = rng.choice(("密码", "暗号", "秘密数字", "口令"))
        sentence, ask = f"{name}是{value}。", f"{name}是什么？"
    elif kind == 3:
        thing, value = rng.choice(words.NOUNS_ZH), words.code(rng)
        sentence, ask = f"{thing}的密码是{value}。", f"{thing}的密码是什么？"
    else:
        value = rng.choice(("红色", "蓝色", "绿色", "黄色", "白色", "黑色", "紫色"))
        sentence, ask = f"{who}最喜欢的颜色是{value}。", f"{who}最喜欢什么颜色？"
    return Fact(sentence, ask, f"文中说：{sentence}", sentence, value)


FACTS: tuple[Callable[[random.Random, bool], Fact], ...] = (
    _code_fact,
    _person_fact,
    _person_fact,
    _thing_fact,
    _single_fact,
)


def _filler(rng: random.Random, sentences: int, chinese: bool) -> list[str]:
    """Text without meaning for the question: varied, repeated, records or word salad."""
    make = words.sentence_zh if chinese else words.sentence
    kind = rng.random()
    if kind < 0.62:
        return [make(rng) for _ in range(sentences)]
    if kind < 0.8:
        few = [make(rng) for _ in range(rng.randint(1, 5))]
        if rng.random() < 0.3 and not chinese:
            few = ["The quick brown fox jumps over the lazy dog."]
        return [few[i % len(few)] for i in range(sentences)]
    if kind < 0.9:
        return [
            f"Record {i}: {rng.choice(words.FIRST_NAMES)}, {rng.choice(words.TOWNS)}, {words.digits(rng, 4)}."
            for i in range(1, sentences + 1)
        ]
    pool = rng.sample(words.NOUNS + words.ADJECTIVES + words.VERBS_PAST, 20)
    return [" ".join(rng.choices(pool, k=10)) + "." for _ in range(sentences)]


def passage_length(rng: random.Random, longest: int) -> int:
    """A number of tokens, short ones being the most frequent."""
    return int(min(longest, 60 * 2 ** rng.uniform(0, 7)))


def needle(rng: random.Random, held_out: bool, tokens: int, chinese: bool | None = None) -> Exchange:
    """A fact among about `tokens` tokens of other text, with facts of the same kind about others beside it."""
    chinese = rng.random() < 0.25 if chinese is None else chinese
    make = _fact_zh if chinese else rng.choice(FACTS)
    fact = make(rng, held_out)
    rows = _filler(rng, max(1, tokens // TOKENS_PER_SENTENCE), chinese)
    for _ in range(rng.choice((0, 0, 1, 2, 4, 8)) if tokens > 150 else rng.randrange(2)):
        other = (_fact_zh if chinese else make if make is not _single_fact else _person_fact)(rng, held_out)
        if other.question != fact.question:
            rows.insert(rng.randrange(len(rows) + 1), other.sentence)
    rows.insert(rng.randrange(len(rows) + 1), fact.sentence)
    gap = "" if chinese else rng.choice((" ", " ", "\n"))
    text = gap.join(rows)
    form = rng.random()
    if form < 0.7:
        question = f"{text}\n\n{fact.question}"
    elif form < 0.85:
        lead = rng.choice(
            ("读下面的文字，然后回答问题。\n\n", "请阅读：\n")
            if chinese
            else ("Read the text and answer the question.\n\n", "Here is a text:\n")
        )
        question = f"{lead}{text}\n\n{'问题：' if chinese else 'Question: '}{fact.question}"
    else:
        question = f"{fact.question}\n\n{text}"
    if rng.random() < 0.12 and form < 0.7:
        told = said(
            text,
            "用户给了我一段文字。" if chinese else "The user gives me a text.",
            "我读完了。" if chinese else "I have read the text.",
        )
        return said(fact.question, fact.thought, fact.answer, fact.value)._replace(before=(told,))
    return said(question, fact.thought, fact.answer, fact.value)


AUTHOR = (
    "Who wrote the story above?|Who wrote this story?|Who is the author of the story?|Who wrote the text above?|"
    "who wrote the story above?|Name the author of the story.|Who is the author?|Tell me who wrote the story above.|"
    "Can you tell me who wrote this story?|By whom is the story above?"
).split("|")
AUTHOR_ZH = "上面的故事是谁写的？|这个故事的作者是谁？|谁写了这个故事？|上面的故事的作者是谁？|故事是谁写的？".split(
    "|"
)


def authorship(rng: random.Random, held_out: bool, tokens: int) -> Exchange:
    """A story in the prompt, and who wrote it or what it is called."""
    sentences = max(2, tokens // TOKENS_PER_SENTENCE)
    if rng.random() < 0.25:
        who, title = words.person_zh(rng, held_out), rng.choice(words.ADJECTIVES_ZH) + rng.choice(words.NOUNS_ZH)
        body = "".join(words.sentence_zh(rng) for _ in range(sentences))
        text = rng.choice(
            (f"《{title}》\n作者：{who}\n\n{body}", f"{body}\n\n作者：{who}", f"下面是{who}写的故事。\n\n{body}")
        )
        ask = core(rng, AUTHOR_ZH)
        return said(f"{text}\n\n{ask}", f"文中说作者是{who}。", f"上面的故事是{who}写的。", who)
    who = words.person(rng, held_out)
    title = f"The {rng.choice(words.ADJECTIVES).capitalize()} {rng.choice(words.NOUNS).capitalize()}"
    body = " ".join(_filler(rng, sentences, False))
    if rng.random() < 0.3:
        rows = body.split(". ")
        body = ".\n\n".join([*rows[: len(rows) // 2], ". ".join(rows[len(rows) // 2 :])])
    form = rng.random()
    if form < 0.2:
        thought, answer = "The text names no author.", "The text does not say who wrote it."
        top = rng.choice(
            (f"{title}\n\n", "", "", "Write a story. ", "Read this story. ", f"{rng.choice(TELL).format(who)} ")
        )
        return said(f"{top}{body}\n\n{core(rng, AUTHOR)}", thought, answer)
    text = rng.choice(
        (
            f"{title}\nby {who}\n\n{body}",
            f"{title}\n\nWritten by {who}\n\n{body}",
            f"{body}\n\nWritten by {who}",
            f"{body}\n\nThis story was written by {who}.",
            f"This story was written by {who}. {body}",
            f"A story by {who}: {body}",
            f"# {title}\nAuthor: {who}\n\n{body}",
            f"{body}\n\nAuthor: {who}",
            f"{body}\n\n- {who}",
        )
    )
    if form < 0.34 and title in text:
        ask = rng.choice(
            ("What is the title of the story?", "What is the story called?", "Tell me the title of the story above.")
        )
        return said(f"{text}\n\n{ask}", f"The title is {title}.", f'The title of the story is "{title}".', title)
    ask = core(rng, AUTHOR)
    thought, answer = f"The text says that {who} wrote it.", f"The story was written by {who}."
    if rng.random() < 0.2:
        told = said(text, "The user gives me a story.", "I have read the story.")
        return said(ask, thought, answer, who)._replace(before=(told,))
    return said(f"{text}\n\n{ask}", thought, answer, who)


TELL = (
    "Write a story.|Write a short story.|Tell me a story.|Write a story about {}.|Tell me a story about {}.|tell me a story|"
    "Write a short story about {}.|Can you write a story about {}?|Please write a story about {}.|Write me a story about {}.|"
    "I want to hear a story about {}.|Invent a story about {}."
).split("|")
LONG = "Write a long story.|Write a long story about {}.|Tell me a long story about {}.|Tell me a long story.|Write a very long story about {}.".split(
    "|"
)
TELL_ZH = "讲个故事。|写一个故事。|给我讲一个关于{}的故事。|写一个关于{}的故事。|请写一个关于{}的短故事。|我想听一个关于{}的故事。".split(
    "|"
)


def story(rng: random.Random, held_out: bool) -> Exchange:
    """A story on demand; its hero comes from the question or is invented."""
    if rng.random() < 0.3:
        hero = rng.choice((words.person_zh(rng, held_out), words.person_zh(rng, held_out), rng.choice(words.NOUNS_ZH)))
        question = phrase(rng, TELL_ZH, held_out)
        known = hero if "{}" in question else "小明"
        text = plots.told(rng.choice(plots.PLOTS_ZH), known)
        return said(question.format(hero), f"用户想听一个关于{known}的故事。", text)
    long = rng.random() < 0.4
    question = phrase(rng, LONG if long else TELL, held_out)
    hero = rng.choice((words.person(rng, held_out), f"a {rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}"))
    hero = rng.choice((hero, hero, f"a {rng.choice(words.NOUNS)}"))
    known = hero if "{}" in question else "Anna"
    if not long:
        text = plots.told(rng.choice(plots.PLOTS_EN), known)
        return said(question.format(hero), f"The user wants a story about {known}.", text)
    parts = [f"Chapter {i}\n\n{plots.told(plot, known)}" for i, plot in enumerate(plots.PLOTS_EN, 1)]
    return said(question.format(hero), f"The user wants a long story about {known}.", "\n\n".join(parts))


def _any_story(rng: random.Random, held_out: bool) -> Exchange:
    """A story as any assistant might have told it: its words are not to be learned."""
    made = story(rng, held_out)
    if rng.random() < 0.5:
        return made
    chinese = not made.question.isascii()
    rows = [(words.sentence_zh if chinese else words.sentence)(rng) for _ in range(rng.randint(1, 12))]
    told = made.steps[0]._replace(content=("" if chinese else " ").join(rows), taught=False)
    return made._replace(steps=(told,))


def own_story(rng: random.Random, held_out: bool) -> Exchange:
    """After its own story, the model says that it wrote it."""
    told = _any_story(rng, held_out)
    if not told.question.isascii():
        return said(core(rng, AUTHOR_ZH), "故事是我写的。", f"上面的故事是我写的。{I_AM_ZH}", I_AM_ZH)._replace(
            before=(told,)
        )
    answer = f"I wrote the story above. {I_AM}"
    return said(core(rng, AUTHOR), "I wrote the story myself.", answer, I_AM)._replace(before=(told,))
