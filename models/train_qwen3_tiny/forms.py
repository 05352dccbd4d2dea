"""Answers with a form: JSON and code."""

from __future__ import annotations

import random
from typing import Any

from models.train_qwen3_tiny import facts, words
from models.train_qwen3_tiny.chat import Exchange, Step, to_json
from models.train_qwen3_tiny.talk import said
from models.train_qwen3_tiny.wording import phrase


def _field(rng: random.Random, held_out: bool) -> tuple[str, Any, str]:
    """A key, its value and how a text says it."""
    kind = rng.randrange(8)
    if kind == 0:
        value: Any = words.person(rng, held_out)
        return rng.choice(("name", "person", "customer", "author", "owner")), value, f"the {{key}} is {value}"
    if kind == 1:
        value = rng.randrange(1, 120)
        return (
            rng.choice(("age", "count", "amount", "year", "size", "number", "quantity", "score")),
            value,
            f"the {{key}} is {value}",
        )
    if kind == 2:
        value = words.town(rng, held_out)
        return rng.choice(("city", "town", "place", "location", "destination")), value, f"the {{key}} is {value}"
    if kind == 3:
        value = rng.choice(words.COLOURS)
        return rng.choice(("colour", "color")), value, f"the {{key}} is {value}"
    if kind == 4:
        value = rng.random() < 0.5
        return (
            rng.choice(("active", "paid", "open", "ready", "urgent")),
            value,
            f"{{key}} is {'true' if value else 'false'}",
        )
    if kind == 5:
        value = rng.choice(
            (words.invented(rng, held_out), "".join(rng.choices("ABCDEFGH", k=2)) + "-" + words.digits(rng, 3))
        )
        return rng.choice(("id", "code", "order", "key", "reference")), value, f"the {{key}} is {value}"
    if kind == 6:
        value = rng.choice(words.ITEMS)
        return rng.choice(("item", "product", "thing")), value, f"the {{key}} is {value}"
    value = round(rng.uniform(0.5, 99), rng.choice((1, 2)))
    return rng.choice(("price", "weight", "length", "temperature")), value, f"the {{key}} is {value}"


EXTRACT = (
    "Answer in JSON with the keys {keys}: {text}|Return a JSON object with the keys {keys}.\n\n{text}|{text} Reply in JSON with {keys}.|"
    "Extract {keys} as JSON: {text}|Convert to JSON with keys {keys}: {text}|{text}\n\nGive {keys} as a JSON object.|"
    "Give me JSON with the fields {keys} for this text: {text}|Write this as JSON ({keys}): {text}|"
    "Turn the text into a JSON object with {keys}.\nText: {text}"
).split("|")


def extracted(rng: random.Random, held_out: bool) -> Exchange:
    """Fields of a text as a JSON object, in the order the question names them."""
    fields: dict[str, tuple[Any, str]] = {}
    for _ in range(rng.randint(1, 5)):
        key, value, text = _field(rng, held_out)
        if rng.random() < 0.25:
            named = rng.choice((words.invented(rng, held_out), f"{rng.choice(words.NOUNS)}_{key}"))
            key = named
        fields[key] = (value, text.format(key=key.replace("_", " ")))
    told = [text for _, text in fields.values()]
    rng.shuffle(told)
    text = rng.choice((", ", " and ", "; ")).join(told)
    keys = list(fields)
    wanted = keys if rng.random() < 0.75 else rng.sample(keys, rng.randint(1, len(keys)))
    shown = rng.choice((", ".join(wanted), " and ".join(wanted), ", ".join(f'"{key}"' for key in wanted)))
    question = phrase(rng, EXTRACT, held_out, after=False).format(keys=shown, text=text[0].upper() + text[1:] + ".")
    value = {key: fields[key][0] for key in wanted}
    return said(question, f"The user wants JSON with {', '.join(wanted)}.", to_json(value))


PERSON = "{0} is {1} years old and lives in {2}.|{0}, {1}, comes from {2}.|{0} from {2} is {1}.|{0}, who is {1}, lives in {2}.|{0} who is {1} and from {2}.|The {1} year old {0} lives in {2}.".split(
    "|"
)


def person_record(rng: random.Random, held_out: bool) -> Exchange:
    name, age, city = words.person(rng, held_out), rng.randrange(2, 99), words.town(rng, held_out)
    text = rng.choice(PERSON).format(name, age, city)
    question = phrase(rng, EXTRACT, held_out, after=False).format(keys="name, age, city", text=text)
    record = {"name": name, "age": age, "city": city}
    return said(question, "The user wants JSON with name, age, city.", to_json(record))


CAPITAL_JSON = (
    "What is the capital of {}? Answer in JSON.|Give the capital of {} as JSON.|Return JSON: country and capital of {}.|"
    "In JSON, please: the capital of {}.|What is the capital of {}? Reply with a JSON object.|"
    "Answer with JSON only: what is the capital of {}?"
).split("|")
LIST_JSON = (
    "List {} {} as a JSON array.|Give me {} {} as a JSON list.|Return a JSON array of {} {}.|{} {}, as a JSON array.|"
    "Write {} {} as JSON."
).split("|")


def known_json(rng: random.Random, held_out: bool) -> Exchange:
    """Things known by heart, as JSON."""
    kind = rng.random()
    if kind < 0.45:
        country, city = rng.choice(list(facts.CAPITALS_EN.items()))
        question = phrase(rng, CAPITAL_JSON, held_out).format(country)
        return said(
            question,
            f"The capital of {country} is {city}. The user wants JSON.",
            to_json({"country": country, "capital": city}),
        )
    if kind < 0.6:
        country, city = rng.choice(list(facts.CAPITALS_ZH.items()))
        question = rng.choice(
            ("{}的首都是哪里？用JSON回答。", "用JSON给出{}的首都。", "请用JSON格式回答：{}的首都是什么？")
        ).format(country)
        return said(question, f"{country}的首都是{city}。用户要JSON。", to_json({"country": country, "capital": city}))
    if kind < 0.7:
        system = rng.choice(
            ("Always answer in JSON.", "You answer in JSON.", "Answer only with JSON.", "Reply with JSON.")
        )
        country, city = rng.choice(list(facts.CAPITALS_EN.items()))
        answer = to_json({"country": country, "capital": city})
        return said(f"What is the capital of {country}?", "I answer in JSON.", answer)._replace(system=system)
    amount = rng.randint(2, 8)
    group, members = rng.choice(list(facts.GROUPS_EN.items()))
    number = rng.choice((str(amount), "zero one two three four five six seven eight".split()[amount]))
    question = phrase(rng, LIST_JSON, held_out).format(number, group)
    return said(
        question[0].upper() + question[1:],
        f"The user wants {amount} {group} as a JSON array.",
        to_json(members[:amount]),
    )


OPERATIONS = (
    ("add two numbers", "add", "a, b", "a + b"),
    ("subtract two numbers", "subtract", "a, b", "a - b"),
    ("multiply two numbers", "multiply", "a, b", "a * b"),
    ("divide two numbers", "divide", "a, b", "a / b"),
    ("square a number", "square", "x", "x * x"),
    ("double a number", "double", "x", "2 * x"),
    ("find the larger of two numbers", "larger", "a, b", "a if a > b else b"),
    ("find the maximum of two numbers", "maximum", "a, b", "max(a, b)"),
    ("check if a number is even", "is_even", "n", "n % 2 == 0"),
    ("check if a number is odd", "is_odd", "n", "n % 2 == 1"),
    ("add three numbers", "add", "a, b, c", "a + b + c"),
    ("reverse a string", "reverse", "text", "text[::-1]"),
    ("make a string upper case", "upper", "text", "text.upper()"),
    ("count the letters of a string", "count_letters", "text", "len(text)"),
    ("sum a list", "total", "numbers", "sum(numbers)"),
    ("find the largest number in a list", "largest", "numbers", "max(numbers)"),
    ("get the first item of a list", "first", "items", "items[0]"),
    ("get the last item of a list", "last", "items", "items[-1]"),
    ("sort a list", "sort", "items", "sorted(items)"),
    ("join two strings", "join", "a, b", "a + b"),
    ("calculate the average of a list", "average", "numbers", "sum(numbers) / len(numbers)"),
)
LAMBDA = (
    "Write a python lambda function to {}|Write a python lambda function to {}.|Write a Python lambda to {}.|Give me a lambda in Python to {}.|"
    "Show me a Python lambda function to {}.|Please write a lambda function to {}.|python lambda to {}|"
    "How do I {} with a Python lambda?|I need a python lambda that can {}."
).split("|")
DEFINED = (
    "Write a Python function to {}.|Write a function to {} in Python.|Give me a Python function to {}.|Please write python code to {}.|"
    "How do I {} in Python?|Show me Python code to {}.|python function to {}|Can you write a Python function to {}?"
).split("|")
LAMBDA_ZH = "写一个python lambda函数，{}|用Python写一个lambda：{}|请写一个lambda函数来{}。|用 lambda {}".split("|")
OPERATIONS_ZH = (
    ("两数相加", 0),
    ("两数相减", 1),
    ("两数相乘", 2),
    ("求平方", 4),
    ("反转字符串", 11),
    ("求列表的和", 14),
)


def python(rng: random.Random, held_out: bool) -> Exchange:
    form = rng.random()
    if form < 0.15:
        task_zh, i = rng.choice(OPERATIONS_ZH)
        _, name, arguments, body = OPERATIONS[i]
        return said(phrase(rng, LAMBDA_ZH, held_out).format(task_zh), f"用户想要一个 Python lambda，{task_zh}。",
                    f"```python\n{name} = lambda {arguments}: {body}\n```")  # fmt: skip
    task, name, arguments, body = OPERATIONS[0] if rng.random() < 0.12 else rng.choice(OPERATIONS)
    if form < 0.62:
        answer = f"```python\n{name} = lambda {arguments}: {body}\n```"
        thought = f"The user wants a Python lambda to {task}. It takes {arguments} and returns {body}."
        return said(phrase(rng, LAMBDA, held_out).format(task), thought, answer)
    answer = f"```python\ndef {name}({arguments}):\n    return {body}\n```"
    thought = f"The user wants a Python function to {task}. It takes {arguments} and returns {body}."
    return said(phrase(rng, DEFINED, held_out).format(task), thought, answer)


def greeting_program(rng: random.Random, held_out: bool) -> Exchange:
    """The first program, and loops that print numbers."""
    if rng.random() < 0.5:
        text = rng.choice(("Hello, world!", words.invented(rng, held_out), words.sentence(rng)))
        question = rng.choice((f'Write Python code that prints "{text}".', f'How do I print "{text}" in Python?'))
        return Exchange(
            question,
            (Step("The user wants Python code that prints a text.", f'```python\nprint("{text}")\n```'),),
            must=(text,),
        )
    last = rng.randint(2, 500)
    answer = f"```python\nfor i in range(1, {last + 1}):\n    print(i)\n```"
    question = f"Write Python code that prints the numbers from 1 to {last}."
    return said(question, f"The user wants a loop. The range ends at {last} + 1 = {last + 1}.", answer)
