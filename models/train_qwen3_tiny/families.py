"""The kinds of tools that requests are made from, each with the questions that call for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.values import (
    CURRENCIES,
    Make,
    code,
    date_text,
    expression,
    flight,
    item,
    path,
    short_text,
    symbol,
    time_text,
    title,
)


class Slot(NamedTuple):
    """A kind of parameter: how schemas call it and what goes into it."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    type: str
    make: Make
    values: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # the ways to mention it when it is not required
    chinese: Make | None = None


class Family(NamedTuple):
    """A kind of tool with the questions that call for it. `{slot}` stands for the slot's value."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    slots: Mapping[str, Slot]
    asks: tuple[str, ...]
    about: str
    fields: tuple[str, ...]
    asks_zh: tuple[str, ...] = ()
    about_zh: str = ""


def _options(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


def _whole(low: int, high: int) -> Make:
    return lambda rng, _: rng.randint(low, high)


def _of(*options: str) -> Make:
    return lambda rng, _: rng.choice(options)


PLACE = Slot(
    _options("city|location|town|place|city_name|location_name|where"),
    _options(
        "The city|The name of the city|Name of the town|The place|The city and state, e.g. San Francisco, CA|"
        "The city to look up|A city, e.g. Paris||The city name"
    ),
    "string", words.town, chinese=words.town_zh,
)  # fmt: skip
PERSON = Slot(
    _options("name|person|contact|recipient|user|who|to|contact_name"),
    _options("The person|Name of the person|The name of the contact|Who it is for||The recipient"),
    "string", words.person, chinese=words.person_zh,
)  # fmt: skip
UNIT = Slot(
    _options("unit|units|temperature_unit|scale"), _options("The unit|The temperature unit||Unit of the temperature"), "string",
    _of("celsius", "fahrenheit"), values=("celsius", "fahrenheit"),
    optional=_options(" in {}| Use {}.| Give it in {}.| in {}, please"),
)  # fmt: skip
TEXT = Slot(
    _options("text|message|body|content"),
    _options("The text|The message|The text to send||Content"),
    "string",
    short_text,
)
TITLE = Slot(_options("title|song|name|track"), _options("The title|Title of the piece||The name"), "string", title)
CODE = Slot(
    _options("id|code|order_id|number|reference|key"),
    _options("The number|The identifier|The id||The code"),
    "string",
    code,
)
ITEM = Slot(
    _options("item|product|article|product_name"), _options("The item|Name of the product||The article"), "string",
    item,
)  # fmt: skip
TIME = Slot(_options("time|at|clock_time|when"), _options("The time|Time of day||When"), "string", time_text)
DATE = Slot(_options("date|day|when|on_date"), _options("The date|The day||Date of the event"), "string", date_text)
ROOM = Slot(
    _options("room|area|zone|room_name"), _options("The room|Name of the room||Which room"), "string",
    _of("kitchen", "bedroom", "bathroom", "garage", "hall", "office", "living room", "cellar", "attic"),
)  # fmt: skip
PATH = Slot(_options("path|file|filename|file_path"), _options("The path|Path of the file||The file"), "string", path)
LANGUAGES = ("French", "German", "Spanish", "Chinese", "Italian", "Japanese", "English")


def _number(names: str, low: int, high: int) -> Slot:
    return Slot(_options(names), ("", "The number", "How many"), "integer", _whole(low, high))


def _choice(names: str, values: Sequence[str], optional: str = "") -> Slot:
    return Slot(
        _options(names), ("", "One of the values", "Which one"), "string", _of(*values), tuple(values),
        _options(optional) if optional else (),
    )  # fmt: skip


FAMILIES: dict[str, Family] = {
    "weather": Family(
        _options("get_current_weather|get_weather|weather|current_weather|fetch_weather|getWeather|lookup_weather|get_current_temperature"),
        _options("Get the current weather in a given location|Get the weather in a city|Current weather of a place|Returns the weather"),
        {"place": PLACE, "unit": UNIT},
        _options(
            "What's the weather like in {place} today?|What is the weather in {place}?|How is the weather in {place}?|"
            "What's the weather like in {place}?|Tell me the weather in {place}.|Weather in {place}, please.|"
            "Is it raining in {place}?|Do I need a coat in {place} today?|what's the weather in {place}|"
            "Get the weather for {place}.|How hot is it in {place} right now?|What is the current weather in {place}?|"
            "What's the temperature in {place}?|I am going to {place}. What is the weather there?|"
            "Could you check the weather in {place} for me?|How warm is it in {place} today?"
        ),
        "the weather in {place}", _options("temperature:t|condition:w|humidity:%|unit:u|wind:n|weather:w|description:w"),
        _options("{place}今天天气怎么样？|{place}的天气如何？|查一下{place}的天气。|{place}现在天气怎么样？|请问{place}的天气？|{place}会下雨吗？|告诉我{place}的天气。"),
        "{place}的天气",
    ),
    "postcode": Family(
        _options("get_postcode|find_postcode|postcode_lookup|get_zip_code|lookupPostcode|postal_code|get_city_postcode"),
        _options("Get the postcode of a city|Find the postal code of a place|Returns the postcode of a town"),
        {"place": PLACE},
        _options(
            "What's the postcode of {place}?|What is the postcode of {place}?|Find the postcode of {place}.|Postcode of {place}?|"
            "Tell me the postcode for {place}.|I need the postcode of {place}.|Look up the postcode of {place}.|"
            "Which postcode does {place} have?"
        ),
        "the postcode of {place}", _options("postcode:d|postcode:d|zip:d"),
        _options("{place}的邮编是多少？|查一下{place}的邮编。|{place}邮政编码是什么？|告诉我{place}的邮编。"), "{place}的邮编",
    ),
    "place_of_postcode": Family(
        _options("find_place|town_by_postcode|lookup_postcode|get_town"),
        _options("Find the town of a postcode|Returns the town for a postal code"),
        {"code": Slot(("postcode", "zip", "postal_code"), ("The postcode", ""), "string", lambda rng, _: words.digits(rng, rng.randint(4, 6)))},
        _options("Which town has the postcode {code}?|What place is {code}?|Look up the postcode {code}.|Where is the postcode {code}?"),
        "the town of the postcode {code}", _options("town:p|name:p"),
    ),
    "time": Family(
        _options("get_time|current_time|get_local_time|time_in_city|getTime"),
        _options("Get the current time in a city|Local time of a place"), {"place": PLACE},
        _options("What time is it in {place}?|Tell me the time in {place}.|What's the local time in {place}?|Current time in {place}?"),
        "the time in {place}", _options("time:h|local_time:h"),
        _options("{place}现在几点？|{place}现在是几点了？|查一下{place}的时间。|告诉我{place}的时间。"), "{place}的时间",
    ),
    "population": Family(
        _options("get_population|population|city_population|count_people"),
        _options("Get the population of a city|Number of people in a place"), {"place": PLACE},
        _options("How many people live in {place}?|What is the population of {place}?|Population of {place}?|Find the population of {place}."),
        "the population of {place}", _options("population:N|count:N"),
        _options("{place}有多少人口？|{place}的人口是多少？|查一下{place}的人口。|告诉我{place}的人口。"), "{place}的人口",
    ),
    "forecast": Family(
        _options("get_forecast|weather_forecast|forecast|fetchForecast"),
        _options("Weather forecast for some days|Get the forecast of the next days"),
        {"place": PLACE, "days": _number("days|num_days|count", 1, 14)},
        _options(
            "Give me the {days} day forecast for {place}.|What is the forecast for {place} for the next {days} days?|"
            "Forecast for {place}, {days} days.|How will the weather be in {place} in the next {days} days?"
        ),
        "the forecast for {place}", _options("forecast:w|low:t|high:t"),
    ),
    "email": Family(
        _options("send_email|email|write_email|sendMail|mail"), _options("Send an email|Sends an email to a person"),
        {"person": PERSON, "text": Slot(("subject", "title", "topic"), ("The subject", ""), "string", short_text)},
        _options(
            'Send an email to {person} with the subject "{text}".|Email {person} about {text}.|Write an email to {person} about {text}.|'
            "Please send {person} an email with the subject {text}.|Email Dr. {person} about {text}.|Mail {person}, subject: {text}."
        ),
        "the email to {person}", _options("status:s|id:d"),
        _options("给{person}发一封邮件，主题是“{text}”。|发邮件给{person}，主题：{text}"), "给{person}的邮件",
    ),
    "message": Family(
        _options("send_message|message|send_text|sendSms|text_contact"), _options("Send a text message|Sends a message to a contact"),
        {"person": PERSON, "text": TEXT},
        _options(
            'Send {person} the message "{text}".|Text {person}: {text}|Send a message to {person}: {text}|Tell {person} that {text}.|'
            'Message {person} "{text}".|Tell Dr. {person} that {text}.'
        ),
        "the message to {person}", _options("status:s|id:d"),
        _options("给{person}发消息：{text}|发短信给{person}，内容是“{text}”。"), "给{person}的消息",
    ),
    "phone": Family(
        _options("call_contact|phone_call|dial|start_call"), _options("Call a person|Start a phone call"), {"person": PERSON},
        _options("Call {person}.|Please call {person}.|Call Mr. {person}.|I need to call Dr. {person}.|Phone {person}.|I want to talk to {person} on the phone."),
        "the call to {person}", _options("status:s|duration:n"), _options("给{person}打电话。|打电话给{person}"), "给{person}的电话",
    ),
    "alarm": Family(
        _options("set_alarm|alarm|create_alarm|wake_me"), _options("Set an alarm|Sets an alarm clock"), {"time": TIME},
        _options("Set an alarm for {time}.|Wake me at {time}.|Please wake me up at {time}.|I need an alarm at {time}."),
        "the alarm for {time}", _options("status:s|id:d"), _options("设一个{time}的闹钟。|{time}叫醒我。"), "{time}的闹钟",
    ),
    "timer": Family(
        _options("set_timer|start_timer|timer|countdown"), _options("Start a timer|Sets a timer in minutes"),
        {"minutes": _number("minutes|duration|duration_minutes", 1, 180)},
        _options("Set a timer for {minutes} minutes.|Start a timer of {minutes} minutes.|Timer, {minutes} minutes.|Count down {minutes} minutes."),
        "the timer", _options("status:s|id:d"), _options("设置一个{minutes}分钟的计时器。|倒计时{minutes}分钟。"), "计时器",
    ),
    "reminder": Family(
        _options("create_reminder|remind_me|add_reminder|reminder"), _options("Create a reminder|Reminds the user of something"),
        {"text": TEXT, "time": TIME},
        _options("Remind me at {time}: {text}.|Set a reminder for {time}: {text}.|At {time}, remind me of this: {text}.|Remind me of {text} at {time}."),
        "the reminder", _options("status:s|id:d"),
    ),
    "music": Family(
        _options("play_music|play_song|play|start_music"), _options("Play a song|Plays music by title"), {"title": TITLE},
        _options('Play {title}.|Play the song "{title}".|I want to hear {title}.|Put on {title}, please.'),
        "the song {title}", _options("status:s|artist:q"), _options("播放{title}。|我想听{title}。"), "歌曲{title}",
    ),
    "volume": Family(
        _options("set_volume|volume|change_volume"), _options("Set the volume|Changes the loudness, 0 to 100"),
        {"level": _number("level|volume|percent", 0, 100)},
        _options("Set the volume to {level}.|Volume {level}, please.|Change the volume to {level}.|Make the volume {level}."),
        "the volume", _options("level:n|status:s"), _options("把音量调到{level}。|音量设为{level}"), "音量",
    ),
    "light": Family(
        _options("set_light|switch_light|light|toggle_light|control_light"), _options("Switch a light|Turns a light on or off"),
        {"room": ROOM, "state": _choice("state|action|status", ("on", "off"))},
        _options("Turn {state} the light in the {room}.|Turn the {room} light {state}.|Switch the light in the {room} {state}.|Light {state} in the {room}."),
        "the light in the {room}", _options("status:s|state:s"),
    ),
    "heating": Family(
        _options("set_temperature|set_thermostat|heating|adjust_temperature"), _options("Set the temperature of a room|Controls the heating"),
        {"room": ROOM, "degrees": _number("degrees|temperature|value", 10, 30)},
        _options("Set the {room} to {degrees} degrees.|Heat the {room} to {degrees} degrees.|Make it {degrees} degrees in the {room}.|I want {degrees} degrees in the {room}."),
        "the temperature in the {room}", _options("status:s|current:t"),
    ),
    "search": Family(
        _options("search_web|web_search|search|google|find_online"), _options("Search the web|Runs a web search"),
        {"text": Slot(("query", "q", "search_term", "keywords"), ("The query", "What to search for", ""), "string", short_text)},
        _options('Search the web for {text}.|Search for "{text}".|Look up {text} on the internet.|Find {text} online.'),
        "the search for {text}", _options("result:q|hits:n"), _options("在网上搜索“{text}”。|搜索{text}"), "“{text}”的搜索结果",
    ),
    "stock": Family(
        _options("get_stock_price|stock_price|quote|getQuote|share_price"), _options("Get the price of a stock|Current stock price by symbol"),
        {"symbol": Slot(("symbol", "ticker", "stock"), ("The symbol", "Ticker symbol", ""), "string", symbol)},
        _options("What is the stock price of {symbol}?|How much is {symbol} stock?|Get the price of {symbol}.|Quote for {symbol}?"),
        "the stock price of {symbol}", _options("price:f|currency:c"), _options("{symbol}的股价是多少？|查一下{symbol}的股价。"), "{symbol}的股价",
    ),
    "convert": Family(
        _options("convert_currency|currency_converter|exchange|convert_money"), _options("Convert an amount of money|Converts currencies"),
        {"amount": _number("amount|value|sum", 1, 9999), "source": _choice("from|from_currency|source", CURRENCIES), "target": _choice("to|to_currency|target", CURRENCIES)},
        _options("Convert {amount} {source} to {target}.|How much is {amount} {source} in {target}?|Change {amount} {source} into {target}.|What are {amount} {source} worth in {target}?"),
        "{amount} {source} in {target}", _options("amount:f|result:f"), _options("把{amount} {source}换成{target}。|{amount} {source}等于多少{target}？"), "{amount} {source}",
    ),
    "calculator": Family(
        _options("calculate|calculator|evaluate|compute|math"), _options("Evaluate an expression|Calculates an arithmetic expression"),
        {"expression": Slot(("expression", "formula", "input"), ("The expression", ""), "string", expression)},
        _options("Use the calculator for {expression}.|Calculate {expression} with the tool.|Evaluate {expression} with the calculator.|Please compute {expression} with your tool."),
        "the result of {expression}", _options("result:n|value:n"),
    ),
    "order": Family(
        _options("get_order_status|order_status|check_order|find_order|track_order"), _options("Get the status of an order|Looks up an order by number"),
        {"code": CODE},
        _options("What is the status of order {code}?|Where is my order {code}?|Check order {code}.|Has order {code} been shipped?|Track my order {code}.|I am waiting for order {code}. Where is it?"),
        "the status of order {code}", _options("status:s|status:s|arrival:D"), _options("订单{code}到哪里了？|查询订单{code}的状态。|订单{code}发货了吗？"), "订单{code}的状态",
    ),
    "event": Family(
        _options("create_event|add_event|schedule_meeting|calendar_add"), _options("Create a calendar event|Adds an event to the calendar"),
        {"title": Slot(("title", "name", "summary"), ("The title", ""), "string", title), "date": DATE},
        _options('Create an event "{title}" on {date}.|Add {title} to my calendar on {date}.|Schedule {title} for {date}.|Put {title} into the calendar on {date}.'),
        "the event {title}", _options("status:s|id:d"),
    ),
    "hotel": Family(
        _options("book_hotel|reserve_hotel|hotel_booking|bookHotel"), _options("Book a hotel|Reserves a hotel room"),
        {"place": PLACE, "nights": _number("nights|num_nights|duration", 1, 20)},
        _options("Book a hotel in {place} for {nights} nights.|I need a hotel in {place} for {nights} nights.|Reserve {nights} nights in a hotel in {place}.|Find me a hotel for {nights} nights in {place}."),
        "the hotel in {place}", _options("hotel:q|price:f|status:s"), _options("在{place}订一家酒店，住{nights}晚。|我想在{place}住{nights}晚酒店。"), "{place}的酒店",
    ),
    "restaurant": Family(
        _options("find_restaurant|search_restaurants|restaurant_finder"), _options("Find a restaurant|Finds restaurants by cuisine"),
        {"place": PLACE, "cuisine": _choice("cuisine|food|kind", ("italian", "chinese", "indian", "french", "thai", "mexican"))},
        _options("Find a {cuisine} restaurant in {place}.|Where can I eat {cuisine} food in {place}?|I want {cuisine} food in {place}.|Is there a {cuisine} restaurant in {place}?"),
        "a restaurant in {place}", _options("name:q|rating:f"),
    ),
    "distance": Family(
        _options("get_distance|distance|route_length|travel_distance"), _options("Distance between two places|Get the distance of two cities"),
        {"place": PLACE._replace(names=("from", "origin", "start", "source", "from_city")), "target": PLACE._replace(names=("to", "destination", "end", "target", "to_city"))},
        _options("How far is it from {place} to {target}?|What is the distance from {place} to {target}?|Distance between {place} and {target}?|How many kilometers is it from {place} to {target}?"),
        "the distance from {place} to {target}", _options("distance:n|km:n"), _options("从{place}到{target}有多远？|{place}到{target}的距离是多少？"), "{place}到{target}的距离",
    ),
    "price": Family(
        _options("get_price|price_lookup|product_price|find_price"), _options("Get the price of a product|Looks up a price"), {"item": ITEM},
        _options("How much is the {item}?|What does the {item} cost?|Price of the {item}?|Tell me the price of the {item}."),
        "the price of the {item}", _options("price:f|currency:c|stock:n"),
    ),
    "cart": Family(
        _options("add_to_cart|cart_add|put_in_cart|order_item"), _options("Add an item to the cart|Puts products into the basket"),
        {"item": ITEM, "quantity": _number("quantity|amount|count", 1, 50)},
        _options("Add {quantity} {item} to my cart.|Put {quantity} pieces of {item} into the cart.|I want to buy {quantity} {item}.|Cart: {quantity} {item}, please."),
        "the {item} in the cart", _options("status:s|total:f"),
    ),
    "contact": Family(
        _options("get_contact|find_contact|lookup_user|get_phone_number"), _options("Find a contact|Looks up the phone number of a person"), {"person": PERSON},
        _options("What is the phone number of {person}?|What is the number of Prof. {person}?|Find the contact {person}.|How can I reach {person}?|Look up the number of {person}."),
        "the phone number of {person}", _options("phone:d|number:d"), _options("{person}的电话号码是多少？|查一下{person}的电话。"), "{person}的电话",
    ),
    "flight": Family(
        _options("flight_status|get_flight|track_flight|check_flight"), _options("Status of a flight|Looks up a flight by number"),
        {"flight": Slot(("flight", "flight_number", "number"), ("The flight number", ""), "string", flight)},
        _options("What is the status of flight {flight}?|Is flight {flight} on time?|Check flight {flight}.|When does flight {flight} land?"),
        "flight {flight}", _options("status:s|gate:d|time:h"), _options("航班{flight}准时吗？|查询航班{flight}。"), "航班{flight}",
    ),
    "file": Family(
        _options("read_file|open_file|get_file|cat_file"), _options("Read a file|Returns the content of a file"), {"path": PATH},
        _options("Read the file {path}.|What is in {path}?|Show me the content of {path}.|Open {path}."),
        "the file {path}", _options("content:q|lines:n"),
    ),
    "delete": Family(
        _options("delete_file|remove_file|erase_file"), _options("Delete a file|Removes a file from the disk"), {"path": PATH},
        _options("Delete the file {path}.|Remove {path}.|Please erase {path}.|Get rid of {path}."), "the file {path}", _options("status:s|freed:n"),
    ),
    "random": Family(
        _options("random_number|roll|get_random|draw_number"), _options("Draw a random number|Random number in a range"),
        {"low": _number("min|low|from|start", 0, 20), "high": _number("max|high|to|end", 21, 999)},
        _options("Draw a random number from {low} to {high}.|Give me a random number between {low} and {high}.|Pick a number between {low} and {high}.|Roll a number from {low} to {high}."),
        "the random number", _options("number:n|value:n"),
    ),
    "translate": Family(
        _options("translate|translate_text|translator"), _options("Translate a text|Translates text into a language"),
        {"text": TEXT, "language": _choice("language|target_language|to", LANGUAGES)},
        _options('Translate "{text}" into {language}.|Please translate {text} to {language}.|Use the tool to translate {text} into {language}.|How do you say {text} in {language}?|Translate this into {language}: {text}'), "the translation of {text}", _options("translation:q"),
    ),
    # The families below are never trained on.
    "table": Family(
        _options("book_table|reserve_table"), _options("Book a table in a restaurant|Reserves a table"),
        {"title": Slot(("restaurant", "venue"), ("Name of the restaurant", ""), "string", title), "people": _number("people|guests|party_size", 1, 12), "time": TIME},
        _options("Book a table for {people} at {title} at {time}.|Reserve a table at {title} for {people} people at {time}."),
        "the table at {title}", _options("status:s|id:d"),
    ),
    "rate": Family(
        _options("get_exchange_rate|exchange_rate"), _options("Exchange rate of two currencies|Get the rate"),
        {"source": _choice("base|from", CURRENCIES), "target": _choice("quote|to", CURRENCIES)},
        _options("What is the exchange rate from {source} to {target}?|Get the rate of {source} in {target}."),
        "the exchange rate from {source} to {target}", _options("rate:f"),
    ),
    "air": Family(
        _options("air_quality|get_air_quality"), _options("Air quality in a city|Get the air quality index of a place"), {"place": PLACE},
        _options("How is the air quality in {place}?|What is the air quality in {place}?"), "the air quality in {place}", _options("index:n|level:w"),
    ),
    "parking": Family(
        _options("find_parking|parking_search|get_parking"),
        _options("Find a parking space|Search for parking near a place"),
        {"place": PLACE, "hours": _number("hours|duration", 1, 24)},
        _options("Find parking in {place} for {hours} hours.|I need parking in {place} for {hours} hours."),
        "the parking in {place}",
        _options("street:q|price:f"),
    ),
    "car": Family(
        _options("rent_car|car_rental"),
        _options("Rent a car|Reserve a rental car"),
        {"place": PLACE, "date": DATE, "days": _number("days|num_days", 1, 20)},
        _options("Rent a car in {place} on {date} for {days} days.|I want to rent a car in {place} for {days} days on {date}."),
        "the car in {place}",
        _options("car:q|price:f"),
    ),
    "taxi": Family(
        _options("order_taxi|book_taxi|get_taxi"), _options("Order a taxi|Sends a taxi to a place"), {"place": PLACE, "time": TIME},
        _options("Order a taxi in {place} at {time}.|I need a taxi in {place} at {time}.|Please get me a taxi in {place} at {time}."),
        "the taxi in {place}", _options("driver:q|price:f"),
    ),
    "library": Family(
        _options("borrow_book|library_loan|reserve_book"), _options("Borrow a book from the library|Reserves a book in the library"),
        {"title": Slot(("title", "book", "book_title"), ("Title of the book", ""), "string", title), "days": _number("days|loan_days|duration", 1, 60)},
        _options("Borrow the book {title} for {days} days.|I want to borrow {title} from the library for {days} days."),
        "the book {title}", _options("status:s|shelf:d"),
    ),
    "tide": Family(
        _options("get_tide|tide_times|tide_table"), _options("Times of the tide at a place|Get the next high tide"), {"place": PLACE},
        _options("When is high tide in {place}?|What is the tide in {place}?|Tell me the tide times of {place}."), "the tide in {place}", _options("high:h|low:h"),
    ),
    "calories": Family(
        _options("get_calories|count_calories|nutrition_lookup"), _options("Calories of a food|Get the number of calories in a food"),
        {"item": ITEM._replace(names=("food", "dish", "food_name"), descriptions=("The food", "Name of the dish", ""))},
        _options("How many calories are in {item}?|How many calories does {item} have?|Count the calories of {item}."),
        "the calories of {item}", _options("calories:n|fat:n"),
    ),
    "doctor": Family(
        _options("make_appointment|book_appointment|appointment"), _options("Make an appointment with a doctor|Books an appointment"),
        {"person": PERSON._replace(names=("doctor", "with", "doctor_name"), descriptions=("The doctor", "")), "date": DATE},
        _options("Make an appointment with Dr. {person} on {date}.|I need an appointment with Dr. {person} on {date}."),
        "the appointment with Dr. {person}", _options("status:s|room:d"),
    ),
}  # fmt: skip
HELD_OUT_FAMILIES = ("table", "rate", "air", "parking", "car", "taxi", "library", "tide", "calories", "doctor")
TRAINED_FAMILIES = tuple(key for key in FAMILIES if key not in HELD_OUT_FAMILIES)
CHINESE_FAMILIES = tuple(key for key in TRAINED_FAMILIES if FAMILIES[key].asks_zh)
