"""The kinds of tools that requests are made from, each with the questions that call for it."""

from __future__ import annotations

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.everyday_kinds import EVERYDAY
from models.train_qwen3_tiny.slots import (
    CODE,
    DATE,
    ITEM,
    LANGUAGES,
    PATH,
    PERSON,
    PLACE,
    ROOM,
    TEXT,
    TIME,
    TITLE,
    UNIT,
    Family,
    Slot,
    choice,
    number,
    options,
)
from models.train_qwen3_tiny.values import CURRENCIES, expression, flight, short_text, symbol, title

_FIRST: dict[str, Family] = {
    "weather": Family(
        options("get_current_weather|get_weather|weather|current_weather|fetch_weather|getWeather|lookup_weather|get_current_temperature"),
        options("Get the current weather in a given location|Get the weather in a city|Current weather of a place|Returns the weather"),
        {"place": PLACE, "unit": UNIT},
        options(
            "What's the weather like in {place} today?|What is the weather in {place}?|How is the weather in {place}?|"
            "What's the weather like in {place}?|Tell me the weather in {place}.|Weather in {place}, please.|"
            "Is it raining in {place}?|Do I need a coat in {place} today?|what's the weather in {place}|"
            "Get the weather for {place}.|How hot is it in {place} right now?|What is the current weather in {place}?|"
            "What's the temperature in {place}?|I am going to {place}. What is the weather there?|"
            "Could you check the weather in {place} for me?|How warm is it in {place} today?"
        ),
        "the weather in {place}", options("temperature:t|condition:w|humidity:%|unit:u|wind:n|weather:w|description:w"),
        options("{place}今天天气怎么样？|{place}的天气如何？|查一下{place}的天气。|{place}现在天气怎么样？|请问{place}的天气？|{place}会下雨吗？|告诉我{place}的天气。"),
        "{place}的天气",
    ),
    "postcode": Family(
        options("get_postcode|find_postcode|postcode_lookup|get_zip_code|lookupPostcode|postal_code|get_city_postcode"),
        options("Get the postcode of a city|Find the postal code of a place|Returns the postcode of a town"),
        {"place": PLACE},
        options(
            "What's the postcode of {place}?|What is the postcode of {place}?|Find the postcode of {place}.|Postcode of {place}?|"
            "Tell me the postcode for {place}.|I need the postcode of {place}.|Look up the postcode of {place}.|"
            "Which postcode does {place} have?"
        ),
        "the postcode of {place}", options("postcode:d|postcode:d|zip:d"),
        options("{place}的邮编是多少？|查一下{place}的邮编。|{place}邮政编码是什么？|告诉我{place}的邮编。"), "{place}的邮编",
    ),
    "place_of_postcode": Family(
        options("find_place|town_by_postcode|lookup_postcode|get_town"),
        options("Find the town of a postcode|Returns the town for a postal code"),
        {"code": Slot(("postcode", "zip", "postal_code"), ("The postcode", ""), "string", lambda rng, _: words.digits(rng, rng.randint(4, 6)))},
        options("Which town has the postcode {code}?|What place is {code}?|Look up the postcode {code}.|Where is the postcode {code}?"),
        "the town of the postcode {code}", options("town:p|name:p"),
    ),
    "time": Family(
        options("get_time|current_time|get_local_time|time_in_city|getTime"),
        options("Get the current time in a city|Local time of a place"), {"place": PLACE},
        options("What time is it in {place}?|Tell me the time in {place}.|What's the local time in {place}?|Current time in {place}?"),
        "the time in {place}", options("time:h|local_time:h"),
        options("{place}现在几点？|{place}现在是几点了？|查一下{place}的时间。|告诉我{place}的时间。"), "{place}的时间",
    ),
    "population": Family(
        options("get_population|population|city_population|count_people"),
        options("Get the population of a city|Number of people in a place"), {"place": PLACE},
        options("How many people live in {place}?|What is the population of {place}?|Population of {place}?|Find the population of {place}."),
        "the population of {place}", options("population:N|count:N"),
        options("{place}有多少人口？|{place}的人口是多少？|查一下{place}的人口。|告诉我{place}的人口。"), "{place}的人口",
    ),
    "forecast": Family(
        options("get_forecast|weather_forecast|forecast|fetchForecast"),
        options("Weather forecast for some days|Get the forecast of the next days"),
        {"place": PLACE, "days": number("days|num_days|count", 1, 14)},
        options(
            "Give me the {days} day forecast for {place}.|What is the forecast for {place} for the next {days} days?|"
            "Forecast for {place}, {days} days.|How will the weather be in {place} in the next {days} days?"
        ),
        "the forecast for {place}", options("forecast:w|low:t|high:t"),
    ),
    "email": Family(
        options("send_email|email|write_email|sendMail|mail"), options("Send an email|Sends an email to a person"),
        {"person": PERSON, "text": Slot(("subject", "title", "topic"), ("The subject", ""), "string", short_text)},
        options(
            'Send an email to {person} with the subject "{text}".|Email {person} about {text}.|Write an email to {person} about {text}.|'
            "Please send {person} an email with the subject {text}.|Email Dr. {person} about {text}.|Mail {person}, subject: {text}."
        ),
        "the email to {person}", options("status:s|id:d"),
        options("给{person}发一封邮件，主题是“{text}”。|发邮件给{person}，主题：{text}"), "给{person}的邮件",
    ),
    "message": Family(
        options("send_message|message|send_text|sendSms|text_contact"), options("Send a text message|Sends a message to a contact"),
        {"person": PERSON, "text": TEXT},
        options(
            'Send {person} the message "{text}".|Text {person}: {text}|Send a message to {person}: {text}|Tell {person} that {text}.|'
            'Message {person} "{text}".|Tell Dr. {person} that {text}.'
        ),
        "the message to {person}", options("status:s|id:d"),
        options("给{person}发消息：{text}|发短信给{person}，内容是“{text}”。"), "给{person}的消息",
    ),
    "phone": Family(
        options("call_contact|phone_call|dial|start_call"), options("Call a person|Start a phone call"), {"person": PERSON},
        options("Call {person}.|Please call {person}.|Call Mr. {person}.|I need to call Dr. {person}.|Phone {person}.|I want to talk to {person} on the phone."),
        "the call to {person}", options("status:s|duration:n"), options("给{person}打电话。|打电话给{person}"), "给{person}的电话",
    ),
    "alarm": Family(
        options("set_alarm|alarm|create_alarm|wake_me"), options("Set an alarm|Sets an alarm clock"), {"time": TIME},
        options("Set an alarm for {time}.|Wake me at {time}.|Please wake me up at {time}.|I need an alarm at {time}."),
        "the alarm for {time}", options("status:s|id:d"), options("设一个{time}的闹钟。|{time}叫醒我。"), "{time}的闹钟",
    ),
    "timer": Family(
        options("set_timer|start_timer|timer|countdown"), options("Start a timer|Sets a timer in minutes"),
        {"minutes": number("minutes|duration|duration_minutes", 1, 180)},
        options("Set a timer for {minutes} minutes.|Start a timer of {minutes} minutes.|Timer, {minutes} minutes.|Count down {minutes} minutes."),
        "the timer", options("status:s|id:d"), options("设置一个{minutes}分钟的计时器。|倒计时{minutes}分钟。"), "计时器",
    ),
    "reminder": Family(
        options("create_reminder|remind_me|add_reminder|reminder"), options("Create a reminder|Reminds the user of something"),
        {"text": TEXT, "time": TIME},
        options("Remind me at {time}: {text}.|Set a reminder for {time}: {text}.|At {time}, remind me of this: {text}.|Remind me of {text} at {time}."),
        "the reminder", options("status:s|id:d"),
    ),
    "music": Family(
        options("play_music|play_song|play|start_music"), options("Play a song|Plays music by title"), {"title": TITLE},
        options('Play {title}.|Play the song "{title}".|I want to hear {title}.|Put on {title}, please.'),
        "the song {title}", options("status:s|artist:q"), options("播放{title}。|我想听{title}。"), "歌曲{title}",
    ),
    "volume": Family(
        options("set_volume|volume|change_volume"), options("Set the volume|Changes the loudness, 0 to 100"),
        {"level": number("level|volume|percent", 0, 100)},
        options("Set the volume to {level}.|Volume {level}, please.|Change the volume to {level}.|Make the volume {level}."),
        "the volume", options("level:n|status:s"), options("把音量调到{level}。|音量设为{level}"), "音量",
    ),
    "light": Family(
        options("set_light|switch_light|light|toggle_light|control_light"), options("Switch a light|Turns a light on or off"),
        {"room": ROOM, "state": choice("state|action|status", ("on", "off"))},
        options("Turn {state} the light in the {room}.|Turn the {room} light {state}.|Switch the light in the {room} {state}.|Light {state} in the {room}."),
        "the light in the {room}", options("status:s|state:s"),
    ),
    "heating": Family(
        options("set_temperature|set_thermostat|heating|adjust_temperature"), options("Set the temperature of a room|Controls the heating"),
        {"room": ROOM, "degrees": number("degrees|temperature|value", 10, 30)},
        options("Set the {room} to {degrees} degrees.|Heat the {room} to {degrees} degrees.|Make it {degrees} degrees in the {room}.|I want {degrees} degrees in the {room}."),
        "the temperature in the {room}", options("status:s|current:t"),
    ),
    "search": Family(
        options("search_web|web_search|search|google|find_online"), options("Search the web|Runs a web search"),
        {"text": Slot(("query", "q", "search_term", "keywords"), ("The query", "What to search for", ""), "string", short_text)},
        options('Search the web for {text}.|Search for "{text}".|Look up {text} on the internet.|Find {text} online.'),
        "the search for {text}", options("result:q|hits:n"), options("在网上搜索“{text}”。|搜索{text}"), "“{text}”的搜索结果",
    ),
    "stock": Family(
        options("get_stock_price|stock_price|quote|getQuote|share_price"), options("Get the price of a stock|Current stock price by symbol"),
        {"symbol": Slot(("symbol", "ticker", "stock"), ("The symbol", "Ticker symbol", ""), "string", symbol)},
        options("What is the stock price of {symbol}?|How much is {symbol} stock?|Get the price of {symbol}.|Quote for {symbol}?"),
        "the stock price of {symbol}", options("price:f|currency:c"), options("{symbol}的股价是多少？|查一下{symbol}的股价。"), "{symbol}的股价",
    ),
    "convert": Family(
        options("convert_currency|currency_converter|exchange|convert_money"), options("Convert an amount of money|Converts currencies"),
        {"amount": number("amount|value|sum", 1, 9999), "source": choice("from|from_currency|source", CURRENCIES), "target": choice("to|to_currency|target", CURRENCIES)},
        options("Convert {amount} {source} to {target}.|How much is {amount} {source} in {target}?|Change {amount} {source} into {target}.|What are {amount} {source} worth in {target}?"),
        "{amount} {source} in {target}", options("amount:f|result:f"), options("把{amount} {source}换成{target}。|{amount} {source}等于多少{target}？"), "{amount} {source}",
    ),
    "calculator": Family(
        options("calculate|calculator|evaluate|compute|math"), options("Evaluate an expression|Calculates an arithmetic expression"),
        {"expression": Slot(("expression", "formula", "input"), ("The expression", ""), "string", expression)},
        options("Use the calculator for {expression}.|Calculate {expression} with the tool.|Evaluate {expression} with the calculator.|Please compute {expression} with your tool."),
        "the result of {expression}", options("result:n|value:n"),
    ),
    "order": Family(
        options("get_order_status|order_status|check_order|find_order|track_order"), options("Get the status of an order|Looks up an order by number"),
        {"code": CODE},
        options("What is the status of order {code}?|Where is my order {code}?|Check order {code}.|Has order {code} been shipped?|Track my order {code}.|I am waiting for order {code}. Where is it?"),
        "the status of order {code}", options("status:s|status:s|arrival:D"), options("订单{code}到哪里了？|查询订单{code}的状态。|订单{code}发货了吗？"), "订单{code}的状态",
    ),
    "event": Family(
        options("create_event|add_event|schedule_meeting|calendar_add"), options("Create a calendar event|Adds an event to the calendar"),
        {"title": Slot(("title", "name", "summary"), ("The title", ""), "string", title), "date": DATE},
        options('Create an event "{title}" on {date}.|Add {title} to my calendar on {date}.|Schedule {title} for {date}.|Put {title} into the calendar on {date}.'),
        "the event {title}", options("status:s|id:d"),
    ),
    "hotel": Family(
        options("book_hotel|reserve_hotel|hotel_booking|bookHotel"), options("Book a hotel|Reserves a hotel room"),
        {"place": PLACE, "nights": number("nights|num_nights|duration", 1, 20)},
        options("Book a hotel in {place} for {nights} nights.|I need a hotel in {place} for {nights} nights.|Reserve {nights} nights in a hotel in {place}.|Find me a hotel for {nights} nights in {place}."),
        "the hotel in {place}", options("hotel:q|price:f|status:s"), options("在{place}订一家酒店，住{nights}晚。|我想在{place}住{nights}晚酒店。"), "{place}的酒店",
    ),
    "restaurant": Family(
        options("find_restaurant|search_restaurants|restaurant_finder"), options("Find a restaurant|Finds restaurants by cuisine"),
        {"place": PLACE, "cuisine": choice("cuisine|food|kind", ("italian", "chinese", "indian", "french", "thai", "mexican"))},
        options("Find a {cuisine} restaurant in {place}.|Where can I eat {cuisine} food in {place}?|I want {cuisine} food in {place}.|Is there a {cuisine} restaurant in {place}?"),
        "a restaurant in {place}", options("name:q|rating:f"),
    ),
    "distance": Family(
        options("get_distance|distance|route_length|travel_distance"), options("Distance between two places|Get the distance of two cities"),
        {"place": PLACE._replace(names=("from", "origin", "start", "source", "from_city")), "target": PLACE._replace(names=("to", "destination", "end", "target", "to_city"))},
        options("How far is it from {place} to {target}?|What is the distance from {place} to {target}?|Distance between {place} and {target}?|How many kilometers is it from {place} to {target}?"),
        "the distance from {place} to {target}", options("distance:n|km:n"), options("从{place}到{target}有多远？|{place}到{target}的距离是多少？"), "{place}到{target}的距离",
    ),
    "price": Family(
        options("get_price|price_lookup|product_price|find_price"), options("Get the price of a product|Looks up a price"), {"item": ITEM},
        options("How much is the {item}?|What does the {item} cost?|Price of the {item}?|Tell me the price of the {item}."),
        "the price of the {item}", options("price:f|currency:c|stock:n"),
    ),
    "cart": Family(
        options("add_to_cart|cart_add|put_in_cart|order_item"), options("Add an item to the cart|Puts products into the basket"),
        {"item": ITEM, "quantity": number("quantity|amount|count", 1, 50)},
        options("Add {quantity} {item} to my cart.|Put {quantity} pieces of {item} into the cart.|I want to buy {quantity} {item}.|Cart: {quantity} {item}, please."),
        "the {item} in the cart", options("status:s|total:f"),
    ),
    "contact": Family(
        options("get_contact|find_contact|lookup_user|get_phone_number"), options("Find a contact|Looks up the phone number of a person"), {"person": PERSON},
        options("What is the phone number of {person}?|What is the number of Prof. {person}?|Find the contact {person}.|How can I reach {person}?|Look up the number of {person}."),
        "the phone number of {person}", options("phone:d|number:d"), options("{person}的电话号码是多少？|查一下{person}的电话。"), "{person}的电话",
    ),
    "flight": Family(
        options("flight_status|get_flight|track_flight|check_flight"), options("Status of a flight|Looks up a flight by number"),
        {"flight": Slot(("flight", "flight_number", "number"), ("The flight number", ""), "string", flight)},
        options("What is the status of flight {flight}?|Is flight {flight} on time?|Check flight {flight}.|When does flight {flight} land?"),
        "flight {flight}", options("status:s|gate:d|time:h"), options("航班{flight}准时吗？|查询航班{flight}。"), "航班{flight}",
    ),
    "file": Family(
        options("read_file|open_file|get_file|cat_file"), options("Read a file|Returns the content of a file"), {"path": PATH},
        options("Read the file {path}.|What is in {path}?|Show me the content of {path}.|Open {path}."),
        "the file {path}", options("content:q|lines:n"),
    ),
    "delete": Family(
        options("delete_file|remove_file|erase_file"), options("Delete a file|Removes a file from the disk"), {"path": PATH},
        options("Delete the file {path}.|Remove {path}.|Please erase {path}.|Get rid of {path}."), "the file {path}", options("status:s|freed:n"),
    ),
    "random": Family(
        options("random_number|roll|get_random|draw_number"), options("Draw a random number|Random number in a range"),
        {"low": number("min|low|from|start", 0, 20), "high": number("max|high|to|end", 21, 999)},
        options("Draw a random number from {low} to {high}.|Give me a random number between {low} and {high}.|Pick a number between {low} and {high}.|Roll a number from {low} to {high}."),
        "the random number", options("number:n|value:n"),
    ),
    "translate": Family(
        options("translate|translate_text|translator"), options("Translate a text|Translates text into a language"),
        {"text": TEXT, "language": choice("language|target_language|to", LANGUAGES)},
        options('Translate "{text}" into {language}.|Please translate {text} to {language}.|Use the tool to translate {text} into {language}.|How do you say {text} in {language}?|Translate this into {language}: {text}'), "the translation of {text}", options("translation:q"),
    ),
    # The families below are never trained on.
    "table": Family(
        options("book_table|reserve_table"), options("Book a table in a restaurant|Reserves a table"),
        {"title": Slot(("restaurant", "venue"), ("Name of the restaurant", ""), "string", title), "people": number("people|guests|party_size", 1, 12), "time": TIME},
        options("Book a table for {people} at {title} at {time}.|Reserve a table at {title} for {people} people at {time}."),
        "the table at {title}", options("status:s|id:d"),
    ),
    "rate": Family(
        options("get_exchange_rate|exchange_rate"), options("Exchange rate of two currencies|Get the rate"),
        {"source": choice("base|from", CURRENCIES), "target": choice("quote|to", CURRENCIES)},
        options("What is the exchange rate from {source} to {target}?|Get the rate of {source} in {target}."),
        "the exchange rate from {source} to {target}", options("rate:f"),
    ),
    "air": Family(
        options("air_quality|get_air_quality"), options("Air quality in a city|Get the air quality index of a place"), {"place": PLACE},
        options("How is the air quality in {place}?|What is the air quality in {place}?"), "the air quality in {place}", options("index:n|level:w"),
    ),
    "parking": Family(
        options("find_parking|parking_search|get_parking"),
        options("Find a parking space|Search for parking near a place"),
        {"place": PLACE, "hours": number("hours|duration", 1, 24)},
        options("Find parking in {place} for {hours} hours.|I need parking in {place} for {hours} hours."),
        "the parking in {place}",
        options("street:q|price:f"),
    ),
    "car": Family(
        options("rent_car|car_rental"),
        options("Rent a car|Reserve a rental car"),
        {"place": PLACE, "date": DATE, "days": number("days|num_days", 1, 20)},
        options("Rent a car in {place} on {date} for {days} days.|I want to rent a car in {place} for {days} days on {date}."),
        "the car in {place}",
        options("car:q|price:f"),
    ),
    "taxi": Family(
        options("order_taxi|book_taxi|get_taxi"), options("Order a taxi|Sends a taxi to a place"), {"place": PLACE, "time": TIME},
        options("Order a taxi in {place} at {time}.|I need a taxi in {place} at {time}.|Please get me a taxi in {place} at {time}."),
        "the taxi in {place}", options("driver:q|price:f"),
    ),
    "library": Family(
        options("borrow_book|library_loan|reserve_book"), options("Borrow a book from the library|Reserves a book in the library"),
        {"title": Slot(("title", "book", "book_title"), ("Title of the book", ""), "string", title), "days": number("days|loan_days|duration", 1, 60)},
        options("Borrow the book {title} for {days} days.|I want to borrow {title} from the library for {days} days."),
        "the book {title}", options("status:s|shelf:d"),
    ),
    "tide": Family(
        options("get_tide|tide_times|tide_table"), options("Times of the tide at a place|Get the next high tide"), {"place": PLACE},
        options("When is high tide in {place}?|What is the tide in {place}?|Tell me the tide times of {place}."), "the tide in {place}", options("high:h|low:h"),
    ),
    "calories": Family(
        options("get_calories|count_calories|nutrition_lookup"), options("Calories of a food|Get the number of calories in a food"),
        {"item": ITEM._replace(names=("food", "dish", "food_name"), descriptions=("The food", "Name of the dish", ""))},
        options("How many calories are in {item}?|How many calories does {item} have?|Count the calories of {item}."),
        "the calories of {item}", options("calories:n|fat:n"),
    ),
    "doctor": Family(
        options("make_appointment|book_appointment|appointment"), options("Make an appointment with a doctor|Books an appointment"),
        {"person": PERSON._replace(names=("doctor", "with", "doctor_name"), descriptions=("The doctor", "")), "date": DATE},
        options("Make an appointment with Dr. {person} on {date}.|I need an appointment with Dr. {person} on {date}."),
        "the appointment with Dr. {person}", options("status:s|room:d"),
    ),
    "campsite": Family(
        options("book_campsite|camping_reservation|reserve_pitch"), options("Book a place for a tent|Reserves a campsite"),
        {"place": PLACE, "nights": number("nights|num_nights|duration", 1, 20)},
        options("Book a campsite in {place} for {nights} nights.|I want to camp in {place} for {nights} nights.|We need a place for our tent in {place}, {nights} nights."),
        "the campsite in {place}", options("site:q|price:f"),
    ),
    "garbage": Family(
        options("garbage_schedule|get_garbage_day|waste_collection"), options("When the garbage is collected|Days of the waste collection"),
        {"place": PLACE},
        options("When is the garbage collected in {place}?|On which day does the garbage truck come to {place}?|What is the garbage schedule of {place}?"),
        "the garbage in {place}", options("day:D|bin:w"),
    ),
    "wine": Family(
        options("suggest_wine|wine_pairing|find_wine"), options("Suggest a wine for a dish|Which wine goes with a food"),
        {"item": ITEM._replace(names=("dish", "food", "meal"), descriptions=("The dish", ""))},
        options("Which wine goes with {item}?|Suggest a wine for {item}.|I cook {item}. What wine do I need?"),
        "a wine for {item}", options("wine:q|year:n"),
    ),
    "locker": Family(
        options("rent_locker|book_locker|locker_rental"), options("Rent a locker|Reserves a locker at a station"),
        {"title": Slot(("station", "venue", "where"), ("The station", ""), "string", title), "hours": number("hours|duration", 1, 24)},
        options("Rent a locker at {title} for {hours} hours.|I need a locker for {hours} hours at {title}.|Where can I leave my bag at {title} for {hours} hours? I need a locker."),
        "the locker at {title}", options("locker:d|price:f"),
    ),
    "trail": Family(
        options("find_trail|trail_search|hiking_trails"), options("Find a hiking trail|Trails near a place"),
        {"place": PLACE, "length": number("length|distance|kilometers", 1, 40)},
        options("Find a trail of {length} kilometers near {place}.|I want to hike {length} kilometers in {place}.|Is there a hiking trail of {length} kilometers in {place}?"),
        "a trail near {place}", options("trail:q|climb:n"),
    ),
    "subtitles": Family(
        options("get_subtitles|subtitle_search|download_subtitles"), options("Get the subtitles of a film|Subtitles in a language"),
        {"title": Slot(("film", "movie", "title"), ("The film", ""), "string", title), "language": choice("language|lang", LANGUAGES)},
        options("Get the {language} subtitles of {title}.|I need {language} subtitles for {title}.|Are there {language} subtitles for {title}?"),
        "the subtitles of {title}", options("file:q|lines:n"),
    ),
}  # fmt: skip
FAMILIES: dict[str, Family] = _FIRST | EVERYDAY
HELD_OUT_FAMILIES = (
    *("table", "rate", "air", "parking", "car", "taxi", "library", "tide", "calories", "doctor"),
    *("campsite", "garbage", "wine", "locker", "trail", "subtitles"),
)
TRAINED_FAMILIES = tuple(key for key in FAMILIES if key not in HELD_OUT_FAMILIES)
CHINESE_FAMILIES = tuple(key for key in TRAINED_FAMILIES if FAMILIES[key].asks_zh)
