"""Conversations about tools: no call, one, two, chains, refusals, questions back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.chat import Call, Exchange, Step, Tool, to_json
from models.train_qwen3_tiny.families import CHINESE_FAMILIES, FAMILIES, HELD_OUT_FAMILIES, TRAINED_FAMILIES
from models.train_qwen3_tiny.invented_tools import invented_request
from models.train_qwen3_tiny.naming import ACTIONS, LOOKUPS, THINGS
from models.train_qwen3_tiny.natural_tools import natural_request
from models.train_qwen3_tiny.tools import Request, family_request, schema, shown
from models.train_qwen3_tiny.worded_tools import worded_request
from models.train_qwen3_tiny.wording import decorated, lowered

RENEWED = 0.55  # share of requests of a family that are about something else
MOST_RIVALS = 4  # in one set of tools
MADE_UP = (invented_request, invented_request, natural_request, natural_request, worded_request)


HELD_OUT_NAMES = frozenset(name for key in HELD_OUT_FAMILIES for name in FAMILIES[key].names)


def request(rng: random.Random, held_out: bool, chinese: bool = False) -> Request:
    """Any request; held-out ones use unseen families, unseen pairs, unseen towns and words."""
    if chinese:
        return family_request(rng, held_out, rng.choice(CHINESE_FAMILIES), chinese=True)
    kind = rng.random()
    if held_out:
        if kind < 0.3:
            return family_request(rng, held_out, rng.choice(HELD_OUT_FAMILIES))
        if kind < 0.34:
            return family_request(rng, held_out, rng.choice(TRAINED_FAMILIES))
    elif kind < 0.08:
        return family_request(rng, held_out, rng.choice(("weather", "weather", "postcode")))
    elif kind < 0.6:
        return of_family(rng, held_out)
    return made_up(rng, held_out)


def of_family(rng: random.Random, held_out: bool) -> Request:
    """A request for a tool of a trained family, or for one like it that is about something else."""
    while True:
        found = family_request(rng, held_out, rng.choice(TRAINED_FAMILIES), renewed=RENEWED)
        if found.call.name not in HELD_OUT_NAMES:
            return found


def made_up(rng: random.Random, held_out: bool) -> Request:
    """A request for a tool with a generated name, which is by chance never one of a held-out family."""
    while True:
        found = rng.choice(MADE_UP)(rng, held_out)
        if found.call.name not in HELD_OUT_NAMES:
            return found


def _name(tool: Tool) -> str:
    return str(tool["function"]["name"])


def others(rng: random.Random, wanted: Sequence[Request], amount: int) -> list[Tool]:
    """Tools that do not fit, some of them near misses: the same verb or the same thing."""
    taken = {request.call.name for request in wanted}
    out: list[Tool] = []
    for _ in range(amount):
        kind = rng.random()
        if kind < 0.4:
            other = family_request(rng, False, rng.choice(TRAINED_FAMILIES), renewed=RENEWED / 2)
        elif kind < 0.7:
            other = rng.choice(MADE_UP)(rng, False)
        elif kind < 0.85:
            noun = (
                wanted[0].about.removeprefix("the ")
                if wanted and wanted[0].about.isascii() and " " not in wanted[0].about.removeprefix("the ")
                else rng.choice(THINGS)
            )
            other = invented_request(rng, False, rng.choice(ACTIONS), noun)
        else:
            verb = wanted[0].call.name.split("_")[0] if wanted and "_" in wanted[0].call.name else rng.choice(LOOKUPS)
            other = invented_request(rng, False, verb, rng.choice(THINGS))
        if other.call.name not in taken and not _same_purpose(other, wanted):
            taken.add(other.call.name)
            out.append(other.tool)
    alike = [tool for each in wanted for tool in each.rivals]
    for tool in rng.sample(alike, min(len(alike), MOST_RIVALS)):
        if _name(tool) not in taken:
            taken.add(_name(tool))
            out.append(tool)
    return out


ALIKE = (
    {"weather", "forecast"},
    {"postcode", "place_of_postcode"},
    {"email", "message"},
    {"calculator", "convert"},
    {"price", "compare_prices"},
    {"compare_prices", "find_shop"},
    {"contact", "employee_lookup"},
    {"event", "arrange_meeting"},
    {"reminder", "add_todo"},
)


def _same_purpose(other: Request, wanted: Sequence[Request]) -> bool:
    """Whether the other's tool would serve a request as well as its own tool."""
    for each in wanted:
        # The last line: a generated description may have the signature before it.
        said, also = (str(tool["function"]["description"]).split("\n")[-1] for tool in (each.tool, other.tool))
        if said and said == also:
            return True
        if other.family and (other.family == each.family or {other.family, each.family} in ALIKE):
            return True
    return False


def toolset(rng: random.Random, wanted: Sequence[Request]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for each in wanted:
        if each.tool not in tools:
            tools.append(each.tool)
    tools += others(rng, wanted, rng.choice((0, 0, 1, 1, 2, 3, 4)))
    rng.shuffle(tools)
    return tuple(tools)


def _with(call: Call) -> str:
    if not call.arguments:
        return call.name
    return f"{call.name} with " + ", ".join(f"{key} = {shown(value)}" for key, value in call.arguments.items())


def call_thought(wanted: Sequence[Request]) -> str:
    calls = "; ".join(_with(each.call) for each in wanted)
    if wanted[0].chinese:
        return f"用户想要{'和'.join(each.about for each in wanted)}。我调用 {calls}。"
    return f"The user wants {' and '.join(each.about for each in wanted)}. I call {calls}."


def several_questions(rng: random.Random, held_out: bool) -> Exchange:
    """A conversation that uses one set of tools again and again: most of its text is there to be learned from."""
    wanted: list[Request] = []
    for _ in range(rng.choice((2, 3, 3, 4))):
        other = request(rng, held_out)
        if all(other.call.name != each.call.name for each in wanted) and not _same_purpose(other, wanted):
            wanted.append(other)
    tools = toolset(rng, wanted)
    made: list[Exchange] = []
    while wanted:
        share, wanted = (wanted[:1], wanted[1:]) if rng.random() < 0.7 else (wanted[:2], wanted[2:])
        made.append(_exchange(rng, joined(rng, [each.ask for each in share], False), share, tools))
    return made[-1]._replace(before=tuple(made[:-1]))


def answer_step(wanted: Sequence[Request]) -> Step:
    if wanted[0].chinese:
        return Step(
            f"我有了{'和'.join(each.about for each in wanted)}的结果。", "".join(each.answer for each in wanted)
        )
    thought = f"I have the result for {' and '.join(each.about for each in wanted)}."
    return Step(thought, " ".join(each.answer for each in wanted))


def _exchange(
    rng: random.Random, question: str, wanted: Sequence[Request], tools: tuple[Tool, ...] | None = None
) -> Exchange:
    called = Step(call_thought(wanted), calls=tuple(each.call for each in wanted))
    must = tuple(value for each in wanted for value in each.values)
    results = (tuple(each.result for each in wanted),)
    offered = toolset(rng, wanted) if tools is None else tools
    return Exchange(question, (called, answer_step(wanted)), results, offered, must=must)


def one_call(rng: random.Random, held_out: bool) -> Exchange:
    wanted = request(rng, held_out, chinese=rng.random() < 0.22)
    free = rng.random() < 0.5
    return _exchange(rng, decorated(rng, wanted.ask, after=False) if free else wanted.ask, (wanted,))


def joined(rng: random.Random, asks: Sequence[str], chinese: bool) -> str:
    if len(asks) == 1:
        return asks[0]
    if chinese:
        return "".join(asks) if rng.random() < 0.5 else "，还有".join([asks[0].rstrip("。？"), *asks[1:]])
    form = rng.random()
    if form < 0.55:
        body = [asks[0].rstrip("?."), *[lowered(ask) for ask in asks[1:]]]
        return rng.choice((" and ", " and ", " and also ", ", and ")).join(body)
    if form < 0.8:
        return " ".join(asks)
    return " Also, ".join([asks[0], *[lowered(ask) for ask in asks[1:]]])


def two_calls(rng: random.Random, held_out: bool) -> Exchange:
    """Two wishes in one question: two tools, often about the same place, or one tool twice."""
    chinese = rng.random() < 0.2
    kind = rng.random()
    if kind < 0.25:
        return _same_tool(rng, held_out, chinese)
    if kind < 0.45:
        keys = [key for key in ("weather", "postcode", "time", "population") if not chinese or FAMILIES[key].asks_zh]
        first, second = rng.sample(keys, 2)
        place = (words.town_zh if chinese else words.town)(rng, held_out)
        pair = [
            family_request(rng, held_out, first, chinese, place),
            family_request(rng, held_out, second, chinese, place if rng.random() < 0.8 else None),
        ]
    else:
        pair = [request(rng, held_out, chinese), request(rng, held_out, chinese)]
        while pair[0].call.name == pair[1].call.name or _same_purpose(pair[1], pair[:1]):
            pair[1] = request(rng, held_out, chinese)
    return _exchange(rng, joined(rng, [each.ask for each in pair], chinese), pair)


PER_PLACE = ("weather", "postcode", "time", "population")


def _same_tool(rng: random.Random, held_out: bool, chinese: bool) -> Exchange:
    key = rng.choice(PER_PLACE)
    make = words.town_zh if chinese else words.town
    places = list(dict.fromkeys(make(rng, held_out) for _ in range(2 if rng.random() < 0.8 else 3)))
    first = family_request(rng, held_out, key, chinese, places[0])
    wanted = [first]
    name = next(argument for argument, value in first.call.arguments.items() if value == places[0])
    for place in places[1:]:
        again = family_request(rng, held_out, key, chinese, place)
        call = Call(first.call.name, {**first.call.arguments, name: place})
        wanted.append(again._replace(tool=first.tool, call=call))
    listed = (
        ("、" if chinese else ", ").join(places[:-1]) + ("和" if chinese else " and ") + places[-1]
        if len(places) > 1
        else places[0]
    )
    return _exchange(rng, first.ask.replace(places[0], listed), wanted)


REFUSED = "I cannot do that: I have no tool for {}."
REFUSED_ZH = "这个我做不到：我没有可以得到{}的工具。"


def no_tool_fits(rng: random.Random, held_out: bool) -> Exchange:
    """A wish that needs a tool which is not there."""
    chinese = rng.random() < 0.25
    if chinese:
        wanted = family_request(rng, held_out, rng.choice(CHINESE_FAMILIES), chinese)
    else:
        wanted = (made_up if rng.random() < 0.3 else of_family)(rng, held_out)
    amount = rng.choice((1, 1, 2, 3)) if rng.random() < 0.94 else 0
    tools = tuple(others(rng, (wanted,), amount))
    if chinese:
        step = Step(f"用户想要{wanted.about}，没有合适的工具。", REFUSED_ZH.format(wanted.about))
        return Exchange(wanted.ask, (step,), tools=tools, must=("没有",))
    step = Step(f"The user wants {wanted.about}. No tool here fits.", REFUSED.format(wanted.about))
    return Exchange(wanted.ask, (step,), tools=tools, must=("no tool",))


WITHOUT_PLACE = {
    "weather": (
        "What's the weather like?",
        "How is the weather?",
        "Tell me the weather.",
        "What is the weather today?",
    ),
    "postcode": ("What is the postcode?", "Find the postcode.", "I need a postcode."),
    "time": ("What time is it there?", "Tell me the local time of the city."),
}


def asks_back(rng: random.Random, held_out: bool) -> Exchange:
    """A required argument is missing, so the model asks for it and then calls."""
    key = rng.choice(list(WITHOUT_PLACE))
    wanted = family_request(rng, held_out, key)
    back = Step("The place is missing.", "Which place do you mean?")
    tools = toolset(rng, (wanted,))
    question = rng.choice(WITHOUT_PLACE[key])
    if rng.random() < 0.5:
        return Exchange(question, (back,), tools=tools, must=("?",))
    before = Exchange(question, (back,), tools=tools)
    place = wanted.about.split(" in ")[-1].split(" of ")[-1]
    call = Call(
        wanted.call.name,
        {
            k: v
            for k, v in wanted.call.arguments.items()
            if v == place or k in wanted.tool["function"]["parameters"].get("required", ())
        },
    )
    if place not in call.arguments.values() or wanted.call.arguments != call.arguments:
        return Exchange(question, (back,), tools=tools, must=("?",))
    then = _exchange(rng, rng.choice(("{}", "In {}.", "{}, please.", "I mean {}.")).format(place), (wanted,))
    return then._replace(tools=tools, before=(before,))


class Link(NamedTuple):
    """Two tools of which the second needs what the first finds."""

    question: str
    first: tuple[str, str, str, str]  # name, description, parameter, what it finds
    found: str
    second: tuple[str, str, str, str]  # name, description, parameter, what it is about


LINKS = (
    Link("Which orders does {} have?", ("get_user_id", "Get the id of a user by name", "name", "the user id of {}"), "user_id", ("get_orders", "Get the orders of a user id", "user_id", "the orders of {}")),
    Link("What is the salary of {}?", ("find_employee", "Find the number of an employee", "name", "the employee number of {}"), "employee_number", ("get_salary", "Get the salary by employee number", "employee_number", "the salary of {}")),
    Link("How long does a parcel to {} take?", ("get_postcode", "Get the postcode of a city", "city", "the postcode of {}"), "postcode", ("delivery_time", "Delivery time for a postcode", "postcode", "the delivery time to {}")),
    Link("Who is the author of the book {}?", ("find_book", "Find the number of a book by title", "title", "the book number of {}"), "isbn", ("get_author", "Get the author by book number", "isbn", "the author of {}")),
    Link("How much does {} cost?", ("search_product", "Find the id of a product", "query", "the product id of {}"), "product_id", ("get_price", "Get the price by product id", "product_id", "the price of {}")),
    Link("What is the weather at the home of {}?", ("get_home_town", "Get the town where a person lives", "person", "the home town of {}"), "town", ("get_weather", "Get the weather in a town", "town", "the weather at the home of {}")),
    Link("When does the flight of {} leave?", ("find_booking", "Find the flight of a passenger", "passenger", "the flight of {}"), "flight", ("departure_time", "Departure time of a flight", "flight", "the departure time of {}")),
    Link("What is the balance of {}?", ("find_account", "Find the account of a person", "owner", "the account of {}"), "account", ("get_balance", "Get the balance of an account", "account", "the balance of {}")),
)  # fmt: skip


def two_rounds(rng: random.Random, held_out: bool) -> Exchange:
    """The second call takes its argument from the first result."""
    link = rng.choice(LINKS)
    who = words.person(rng, held_out)
    value = words.town(rng, held_out) if link.found == "town" else words.code(rng)
    if rng.random() < 0.35:
        link = _invented_link(rng, held_out)
    first, second = link.first, link.second
    tools = [_one_string(rng, first), _one_string(rng, second)]
    final = rng.choice(
        (words.digits(rng, 4), words.invented(rng, held_out), words.code(rng), f"{rng.randint(1, 99)} days")
    )
    key = rng.choice(("result", "value", second[3].split(" ")[1]))
    about_first, about_second = first[3].format(who), second[3].format(who)
    plain = rng.random() < 0.4
    found = value if rng.random() < 0.4 else to_json({link.found: value})
    steps = (
        Step(f"The user wants {about_second}. First I need {about_first}. I call {first[0]} with {first[2]} = {who}.", calls=(Call(first[0], {first[2]: who}),)),
        Step(f"I have {about_first}: {value}. Now I call {second[0]} with {second[2]} = {value}.", calls=(Call(second[0], {second[2]: value}),)),
        Step(
            f"I have the result for {about_second}.",
            f"{about_second[0].upper()}{about_second[1:]} is {final}." if plain else f"{about_second[0].upper()}{about_second[1:]}: the {key} is {final}.",
        ),
    )  # fmt: skip
    tools += others(rng, (), rng.choice((0, 0, 1, 2)))
    rng.shuffle(tools)
    results = ((found,), (final if plain else to_json({key: final}),))
    return Exchange(link.question.format(who), steps, results, tuple(tools), must=(final,))


def _invented_link(rng: random.Random, held_out: bool) -> Link:
    thing, code, goal = rng.sample(THINGS, 3)
    named = words.invented(rng, held_out) if rng.random() < 0.3 else f"{thing}_{code}"
    spoken = named.replace("_", " ")
    return Link(
        rng.choice(
            (
                f"What is the {goal} of the {thing} of {{}}?",
                f"Find the {spoken} of {{}}, then get the {goal} for it.",
                f"Use the {spoken} of {{}} to get the {goal}.",
            )
        ),
        (
            f"{rng.choice(LOOKUPS)}_{named}",
            f"Get the {spoken} of a person",
            rng.choice(("name", "person", "owner")),
            f"the {spoken} of {{}}",
        ),
        named,
        (f"{rng.choice(LOOKUPS)}_{goal}", f"Get the {goal} by {spoken}", named, f"the {goal} of {{}}"),
    )


def _one_string(rng: random.Random, tool: tuple[str, str, str, str]) -> Tool:
    prop: dict[str, Any] = {"type": "string"}
    if rng.random() < 0.5:
        prop["description"] = f"The {tool[2].replace('_', ' ')}"
    return schema(rng, tool[0], tool[1], {tool[2]: prop}, [tool[2]])


def idle_tools(rng: random.Random) -> tuple[Tool, ...]:
    """Tools that stand beside a question which needs none."""
    return tuple(others(rng, (), rng.randint(1, 3)))


def called_again(rng: random.Random, held_out: bool) -> Exchange:
    """A second question for the tool that the conversation has used before."""
    chinese = rng.random() < 0.2
    key = rng.choice(PER_PLACE)
    make = words.town_zh if chinese else words.town
    place, next_place = make(rng, held_out), make(rng, held_out)
    first = family_request(rng, held_out, key, chinese, place)
    then = family_request(rng, held_out, key, chinese, next_place)
    arguments = {name: next_place if value == place else value for name, value in first.call.arguments.items()}
    then = then._replace(tool=first.tool, call=Call(first.call.name, arguments))
    short = (
        rng.choice(("{}呢？", "那{}呢？"))
        if chinese
        else rng.choice(("And in {}?", "What about {}?", "And {}?", "How about {}?"))
    )
    ask = short.format(next_place) if rng.random() < 0.6 else first.ask.replace(place, next_place)
    before = _exchange(rng, first.ask, (first,))
    return _exchange(rng, ask, (then,))._replace(before=(before,), tools=before.tools)
