"""The tools and the question of the usual examples, as the evaluation, the greedy reference and the tests take them."""

from __future__ import annotations

from models.train_qwen3_tiny.chat import Call

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}
POSTCODE = {
    "type": "function",
    "function": {
        "name": "get_postcode",
        "description": "Get the postcode of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
BOSTON_WEATHER = Call("get_current_weather", {"location": "Boston"})
BOSTON_POSTCODE = Call("get_postcode", {"city": "Boston"})
BOTH = "What's the postcode of Boston and what's the weather like in Boston today?"
