"""More kinds of tools for training, a few lines each: what services for everyday life offer.

Hundreds of generated tools teach a model to copy names and arguments, and yet it refuses the first tool about tides, since real
questions seldom repeat the words of a schema. Only many kinds of real questions teach that.
"""

from __future__ import annotations

import re

from models.train_qwen3_tiny import words
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
    Family,
    Slot,
    choice,
    number,
)
from models.train_qwen3_tiny.values import flight, symbol

FOODS = (
    "soup rice bread cheese pasta salad pizza curry noodles fish chicken cake pie eggs beans potatoes tomatoes onions carrots "
    "mushrooms honey yoghurt chocolate pancakes dumplings tofu porridge omelette"
).split()
ANIMALS = "cat dog horse parrot rabbit hamster goat sheep turtle pony cow hen duck goose lizard".split()
INVENTED = Slot(("word", "term", "name"), ("The word", ""), "string", words.invented)

BASES: dict[str, Slot] = {
    "place": PLACE,
    "person": PERSON,
    "text": TEXT,
    "title": TITLE,
    "code": CODE,
    "item": ITEM,
    "time": TIME,
    "date": DATE,
    "room": ROOM,
    "path": PATH,
    "word": INVENTED,
    "food": Slot(("food", "dish", "ingredient"), ("", "The food", "Name of the dish"), "string", lambda rng, _: rng.choice(FOODS)),
    "animal": Slot(("animal", "pet", "kind"), ("", "The animal"), "string", lambda rng, _: rng.choice(ANIMALS)),
    "flight": Slot(("flight", "flight_number"), ("", "The flight"), "string", flight),
    "symbol": Slot(("symbol", "ticker", "stock"), ("", "The symbol"), "string", symbol),
    "language": choice("language|target_language|to", LANGUAGES),
    "days": number("days|duration|num_days", 1, 30),
    "nights": number("nights|num_nights|duration", 1, 20),
    "hours": number("hours|duration|num_hours", 1, 24),
    "minutes": number("minutes|duration|length", 1, 180),
    "weeks": number("weeks|duration", 1, 12),
    "people": number("people|guests|persons|party_size|seats|count", 1, 40),
    "amount": number("amount|sum|value", 1, 9999),
    "count": number("count|quantity|number|amount", 1, 99),
    "percent": number("percent|level|value", 0, 100),
    "year": number("year|in_year", 1900, 2030),
}  # fmt: skip


def _slot(written: str) -> tuple[str, Slot]:
    """A slot from `base`, `key<base`, `base:name,name` or `key=value/value`."""
    if "=" in written:
        key, values = written.split("=")
        return key, choice(key, values.split("/"))
    rest, _, names = written.partition(":")
    key, _, base = rest.partition("<")
    slot = BASES[base or key]
    if names:
        first = names.split(",")[0].replace("_", " ")
        described = (f"The {first}", f"{first.capitalize()}", "")
        slot = slot._replace(names=tuple(names.split(",")), descriptions=described)
    return key, slot


def _kinds(table: str) -> dict[str, Family]:
    """Reads blocks of names, descriptions, slots, fields, what it is about, and one question a line."""
    out: dict[str, Family] = {}
    for block in table.strip().split("\n\n"):
        head, about, *asks = block.split("\n")
        names, descriptions, slots, fields = (part.strip() for part in head.split(" | "))
        options = tuple(names.split())
        shaped = dict(_slot(written) for written in slots.split())
        said = re.findall(r"{(\w+)}", " ".join((about, *asks)))
        assert set(said) == set(shaped), f"{options[0]}: {set(said) ^ set(shaped)}"
        out[options[0]] = Family(
            options, tuple(descriptions.split("; ")), shaped, tuple(asks), about, tuple(fields.split())
        )
    return out


EVERYDAY = _kinds(
    """
museum_hours get_museum_hours opening_hours | Opening hours of a museum; Tells when a museum is open | title:museum,name,museum_name | opens:h closes:h
the opening hours of {title}
When does {title} open?
Until when is {title} open?
What are the hours of {title}?
Is {title} open now?

sunrise get_sunrise sun_times | Time of the sunrise; When the sun comes up at a place | place | sunrise:h sunset:h
the sunrise in {place}
When does the sun rise in {place}?
What time is sunrise in {place}?
Tell me the sunrise of {place}.
When does it get light in {place}?

sunset_lookup get_sunset | Time of the sunset; When the sun goes down | place date | sunset:h
the sunset in {place}
When is sunset in {place} on {date}?
When does it get dark in {place} on {date}?
What time does the sun go down in {place} on {date}?

moon_phase get_moon moonlight | Phase of the moon; How the moon looks on a day | date | phase:w age:n
the moon on {date}
What is the moon like on {date}?
Which phase does the moon have on {date}?
Is it full moon on {date}?

pollen_report get_pollen allergy_info | Pollen in a place; How much pollen there is | place | level:w grass:n
the pollen in {place}
How much pollen is there in {place}?
Is the pollen bad in {place}?
What is the pollen level in {place}?
I have hay fever. How is {place}?

snow_depth ski_report get_snow | Snow at a place; Depth of the snow in a ski area | place:resort,place,area | depth:n open:n
the snow in {place}
How much snow is there in {place}?
How deep is the snow in {place}?
Can I ski in {place}?

earthquake_info recent_earthquakes | Earthquakes near a place; Recent earthquakes | place | strength:f date:D
earthquakes in {place}
Was there an earthquake in {place}?
Show me earthquakes near {place}.
Has the ground moved in {place}?

surf_report wave_height get_waves | Waves at a beach; How high the waves are | place:beach,spot,place | height:f period:n
the waves in {place}
How high are the waves in {place}?
Can I surf in {place}?
What is the surf like in {place}?

water_temperature get_water_temp swim_info | Temperature of the water; How warm the sea or lake is | place | water:t
the water in {place}
How warm is the water in {place}?
Can I swim in {place} today?
What's the temperature of the sea in {place}?

uv_index get_uv sun_strength | Strength of the sun; UV index of a place | place | index:n
the UV index in {place}
How strong is the sun in {place}?
What is the UV index in {place}?
Do I need sunscreen in {place}?

noise_map get_noise loudness | Noise in a street; How loud it is somewhere | place:street,place,area | db:n
the noise in {place}
How loud is it in {place}?
What is the noise in {place}?
Is {place} a quiet place?

traffic_report get_traffic road_status | Traffic on the roads of a place; Traffic jams | place | jams:n delay:n
the traffic in {place}
How is the traffic in {place}?
Are there traffic jams in {place}?
Is there much traffic in {place} now?

next_train get_departures train_times | Next trains between two stations; Departures of trains | place:from,origin,start target<place:to,destination,end | departs:h platform:n
the next train from {place} to {target}
When does the next train from {place} to {target} leave?
When can I take a train from {place} to {target}?
Trains from {place} to {target}, please.
I have to go from {place} to {target} by train.

bus_schedule next_bus get_bus | Buses from a stop; When the next bus comes | title:stop,stop_name,station | bus:h line:n
the bus at {title}
When does the next bus leave from {title}?
Which buses stop at {title}?
I am at {title}. When is my bus coming?

book_train buy_ticket train_ticket | Buy a train ticket; Books a seat on a train | place:from,origin target<place:to,destination date | seat:d price:f
the train ticket from {place} to {target}
Buy a train ticket from {place} to {target} for {date}.
I need a ticket from {place} to {target} on {date}.
Book me on a train from {place} to {target} on {date}.

ferry_booking book_ferry | Book a ferry; Reserves places on a ship | place:from,harbour target<place:to,destination people | ship:q price:f
the ferry from {place} to {target}
Book the ferry from {place} to {target} for {people} people.
We are {people} people and need a ferry from {place} to {target}.

search_flights find_flights flight_search | Search for flights; Finds flights between two airports | place:from,origin,departure target<place:to,destination,arrival date | flight:d price:f
flights from {place} to {target}
Find flights from {place} to {target} on {date}.
I want to fly from {place} to {target} on {date}.
Are there flights from {place} to {target} on {date}?
Which planes go from {place} to {target} on {date}?

check_in online_check_in | Check in for a flight; Online check-in | flight person:passenger,name | seat:d gate:d
the check-in for {flight}
Check {person} in for flight {flight}.
I want to check in for {flight}. My name is {person}.

baggage_tracker find_luggage lost_bag | Find lost luggage; Where a suitcase is | code:tag,bag_id,tag_number | place:p status:s
the luggage {code}
Where is my suitcase with the tag {code}?
My bag {code} is lost.
Find the luggage {code}.

bike_rental rent_bike get_bike | Rent a bicycle; Reserves a bike | place hours | bike:d price:f
the bike in {place}
Rent a bike in {place} for {hours} hours.
I need a bicycle for {hours} hours in {place}.
Get me a bike in {place}, {hours} hours.

scooter_unlock start_scooter | Unlock a scooter; Starts an electric scooter | code:scooter,scooter_id,id | status:s battery:%
the scooter {code}
Unlock the scooter {code}.
I want to ride the scooter {code}.
Start scooter {code}.

charging_station find_charger ev_charging | Find a charging station; Where electric cars can be charged | place | street:q free:n
the charger in {place}
Where can I charge my electric car in {place}?
Find a charging station in {place}.
My battery is low and I am in {place}.

fuel_price petrol_price get_fuel | Price of petrol; What fuel costs in a place | place | price:f
the fuel in {place}
How much is petrol in {place}?
What does fuel cost in {place}?
Where can I fill up in {place}?

toll_cost get_toll road_fee | Fee for a road; What a trip costs in tolls | place:from,start target<place:to,end | fee:f
the toll from {place} to {target}
How much toll do I pay from {place} to {target}?
What are the road fees between {place} and {target}?

route_planner plan_route directions navigate | Plan a route; The way from one place to another | place:from,start,origin target<place:to,destination,goal mode=walking/driving/cycling/transit | minutes:n km:f
the way from {place} to {target}
How do I get from {place} to {target} by {mode}?
Show me the way from {place} to {target}, {mode}.
Plan a {mode} route from {place} to {target}.
I am in {place}. Take me to {target}, {mode}.

nearby_places find_nearby poi_search | Find places near a place; Shops, banks and so on nearby | place:near,location,around kind=pharmacy/bank/cafe/gym/bakery/cinema | name:q distance:n
a {kind} near {place}
Where is a {kind} in {place}?
Find a {kind} near {place}.
Is there a {kind} around {place}?
I need a {kind} in {place}.

order_food food_delivery get_meal | Order food; Delivers a meal | food place:address,place,deliver_to | minutes:n price:f
the {food} for {place}
Order {food} to {place}.
I am hungry. Bring {food} to {place}.
Deliver {food} to {place}, please.
Get me {food} in {place}.

find_recipe recipe_search how_to_cook | Find a recipe; How to cook a dish | food | recipe:q minutes:n
the recipe for {food}
How do I make {food}?
Find a recipe for {food}.
I want to cook {food}.
What do I need for {food}?

meal_planner plan_meals | Plan meals; Suggests what to eat | days diet=vegan/vegetarian/normal/kosher/halal | plan:q
the meals for {days} days
Plan {diet} meals for {days} days.
What could I eat for {days} days? I want it {diet}.

shopping_list add_to_list grocery_add | Put something on the shopping list; Adds groceries | food:item,product,entry count | items:n
the {food} on the list
Put {count} {food} on my shopping list.
We need {count} {food}.
Add {count} {food} to the groceries.
Don't let me forget {count} {food}.

find_shop where_to_buy product_search | Find a shop that has a product; Where something is sold | item place | shop:q price:f
a shop for the {item} in {place}
Where can I buy a {item} in {place}?
Who sells a {item} in {place}?
Find a {item} in the shops of {place}.

stock_level check_inventory in_stock | How many of a product are there; Checks the inventory | item code:store,branch,shop_id | count:n
the {item} in store {code}
How many {item}s are in store {code}?
Is the {item} available in store {code}?
Does store {code} have the {item}?

compare_prices price_comparison cheapest | Compare prices; Finds the cheapest offer | item | shop:q price:f
offers for the {item}
Who has the cheapest {item}?
Compare the prices of the {item}.
Where do I get a {item} for the least money?

return_item start_return send_back | Return a product; Sends a product back | code:order,order_id,number reason=broken/wrong_size/unwanted/late | label:d status:s
the return of {code}
I want to send back order {code}, it is {reason}.
Return {code}, reason {reason}.
Start a return for {code} because it is {reason}.

refund_request get_refund money_back | Ask for a refund; Pays money back | code:order,order_id,invoice amount | status:s
the refund of {code}
I want {amount} back for order {code}.
Refund {amount} for {code}.
Give me my money back for {code}: {amount}.

gift_card check_gift_card voucher_balance | Balance of a gift card; What is left on a voucher | code:card,voucher,code | balance:f
the gift card {code}
How much is left on my gift card {code}?
Check the voucher {code}.
What is the value of card {code}?

apply_coupon use_discount promo_code | Use a coupon; Applies a discount code | code:coupon,promo,code | saved:f status:s
the coupon {code}
Use the coupon {code}.
I have a discount code: {code}.
Apply {code} to my order.

product_review get_reviews what_people_say | Reviews of a product; Opinions of buyers | item | stars:f reviews:n
the reviews of the {item}
Is the {item} any good?
What do people say about the {item}?
Show me reviews of the {item}.

write_review rate_product leave_feedback | Write a review; Rates a product | item stars=one/two/three/four/five | status:s
the review of the {item}
Give the {item} {stars} stars.
I want to rate the {item} with {stars} stars.
Leave {stars} stars for the {item}.

bank_balance get_balance account_info | Balance of a bank account; How much money is there | code:account,account_id,iban | balance:f currency:c
the account {code}
How much money is in account {code}?
What is the balance of {code}?
How rich am I? My account is {code}.

transfer_money send_money pay_person wire | Send money; Transfers money to a person | person:to,recipient,payee amount | status:s id:d
the payment to {person}
Send {amount} to {person}.
Pay {person} {amount}.
Transfer {amount} to {person}, please.
I owe {person} {amount}. Pay it.

pay_bill settle_invoice | Pay a bill; Settles an invoice | code:invoice,bill,bill_id amount | status:s
the bill {code}
Pay the bill {code} of {amount}.
Settle invoice {code}, it is {amount}.
I got a bill over {amount}, number {code}. Pay it.

loan_calculator monthly_payment mortgage | Monthly payment of a loan; Calculates a mortgage | amount:amount,principal,loan years<count:years,term,duration | monthly:f
a loan of {amount}
What do I pay a month for a loan of {amount} over {years} years?
I want a mortgage of {amount} for {years} years.
Calculate a loan: {amount}, {years} years.

tax_calculator income_tax compute_tax | Tax on an income; Calculates the tax | amount:income,salary,amount year | tax:f
the tax on {amount}
How much tax do I pay on {amount} in {year}?
I earn {amount}. What is the tax in {year}?
Tax for {year} on {amount}?

tip_calculator split_bill share_costs | Split a bill; What everybody pays | amount:bill,total,amount people | each:f
the share of {amount}
Split {amount} between {people} people.
We are {people} and the bill is {amount}. What does each pay?
Divide a bill of {amount} by {people}.

crypto_price coin_value get_coin | Price of a coin; What a cryptocurrency is worth | symbol:coin,symbol,token | price:f
the coin {symbol}
What is {symbol} worth in crypto?
How much is one {symbol} coin?
Price of the coin {symbol}?

buy_stock place_order trade_shares | Buy shares; Places an order for a stock | symbol count:shares,quantity,amount | status:s price:f
the order of {symbol}
Buy {count} shares of {symbol}.
I want {count} {symbol} shares.
Get me {count} of {symbol} at the stock market.

company_info get_company firm_lookup | Information on a company; Looks up a firm | title:company,firm,company_name | staff:n seat:p
the company {title}
What does the company {title} do?
Tell me about the firm {title}.
How many people work for {title}?

job_search find_jobs vacancies | Search for jobs; Open positions in a place | place title:job,position,role | job:q pay:n
jobs in {place}
Find me a job as {title} in {place}.
Are there {title} positions in {place}?
I look for work in {place} as {title}.

salary_info average_pay what_they_earn | What a job pays; Average salary | title:job,profession,role place | salary:N
the pay of {title} in {place}
What does {title} earn in {place}?
How much money do you make as {title} in {place}?

apartment_search find_flat housing | Find a flat; Apartments for rent | place rooms<count:rooms,bedrooms | rent:n street:q
a flat in {place}
Find a flat with {rooms} rooms in {place}.
I want to live in {place}. I need {rooms} rooms.
Apartments in {place} with {rooms} bedrooms?

house_price home_value estimate_home | What a house is worth; Value of a home | place:address,place,street size<count:size,square_meters,area | value:N
the house in {place}
What is a house of {size} square meters in {place} worth?
Estimate my home in {place}, {size} square meters.

call_plumber order_repair book_handyman | Send somebody who repairs things; Orders a handyman | place trade=plumber/electrician/painter/locksmith/carpenter time | name:q price:f
the {trade} in {place}
I need a {trade} in {place} at {time}.
Please get me a {trade} in {place} at {time}.
Send a {trade} to {place} at {time}.
Order a {trade} for {time} in {place}.

cleaning_service book_cleaner | Order a cleaner; Cleans a flat | place hours date | name:q
the cleaner in {place}
I need a cleaner in {place} on {date} for {hours} hours.
Get somebody who cleans in {place} on {date}, {hours} hours.

babysitter find_sitter book_nanny | Find a babysitter; Somebody who looks after children | place hours | name:q price:f
a babysitter in {place}
I need a babysitter in {place} for {hours} hours.
Who can look after my children in {place} for {hours} hours?

dog_walker book_walk pet_service | Somebody who walks a pet; Orders a walk | animal minutes | name:q
the walk of the {animal}
Somebody should walk my {animal} for {minutes} minutes.
Book a walk of {minutes} minutes for my {animal}.

vet_visit book_vet animal_clinic | Take an animal to the vet; A visit at the animal clinic | animal date | status:s time:h
the vet for the {animal}
My {animal} is ill. I need a vet on {date}.
Take my {animal} to the vet on {date}.
Book the vet for the {animal} on {date}.

haircut book_hairdresser salon_visit | Book a haircut; A visit at the hairdresser | person:stylist,hairdresser,with date time | status:s
the haircut with {person}
I want a haircut with {person} on {date} at {time}.
Book {person} for a haircut on {date} at {time}.
Cut my hair on {date} at {time}. {person} should do it.

spa_booking book_massage wellness | Book a massage; Reserves a spa treatment | title:spa,place,salon minutes | price:f status:s
the massage at {title}
Book a massage of {minutes} minutes at {title}.
I want {minutes} minutes of massage at {title}.

gym_class join_class fitness_course | Join a sports class; Books a place in a course | sport=yoga/boxing/spinning/pilates/swimming date | room:d status:s
the {sport} class
Put me into the {sport} class on {date}.
I want to do {sport} on {date}.
Sign me up for {sport} on {date}.

court_booking reserve_court book_field | Book a court; Reserves a place for sport | sport=tennis/squash/badminton/football/basketball time hours | court:n status:s
the {sport} court
I need a {sport} court at {time} for {hours} hours.
Reserve a {sport} court for {hours} hours at {time}.
We want to play {sport} at {time}, {hours} hours.

lesson_booking book_lesson find_tutor | Book a lesson; A lesson with a teacher | person:teacher,tutor,with subject=math/piano/french/chess/physics/guitar date | status:s room:d
the lesson with {person}
I want a {subject} lesson with {person} on {date}.
Book {person} for {subject} on {date}.
Arrange a lesson in {subject} with Prof. {person} on {date}.

meeting_room book_room reserve_room | Book a meeting room; Reserves a room in the office | people time | room:d
the meeting room
I need a room for {people} people at {time}.
Book a meeting room for {people} at {time}.
Where can {people} of us meet at {time}?

arrange_meeting meet_with plan_meeting | Arrange a meeting; Invites a person to a meeting | person:with,attendee,colleague,person date | status:s id:d
the meeting with {person}
Arrange a meeting with {person} on {date}.
I have to see {person} on {date}.
I want to see Dr. {person} on {date}.
I need a meeting with Mr. {person} on {date}.
Set something up with Mrs. {person} for {date}.

free_slots check_availability is_free | When a person is free; Looks into a calendar | person date | free:h until:h
the free time of {person}
When is {person} free on {date}?
Does {person} have time on {date}?
When can Dr. {person} see me on {date}?
Can I see {person} on {date}?

birthday get_birthday born_on | Birthday of a person; When somebody was born | person | date:D
the birthday of {person}
When is the birthday of {person}?
When was {person} born?
How old is {person}?

send_flowers flower_delivery order_bouquet | Send flowers; Delivers a bouquet | person flower=roses/tulips/lilies/daisies/orchids | status:s price:f
the flowers for {person}
Send {flower} to {person}.
I want to give {person} {flower}.
{person} should get {flower} from me.

gift_finder suggest_gift present_ideas | Ideas for a present; Suggests a gift | person amount:budget,amount,max_price | gift:q price:f
a gift for {person}
What can I give {person} for {amount}?
I need a present for {person}, at most {amount}.

party_planner plan_party | Plan a party; Organizes a party | title:theme,name,motto people date | status:s
the party {title}
Plan a party called {title} for {people} people on {date}.
I want to celebrate {title} on {date} with {people} guests.

concert_tickets buy_concert get_tickets | Tickets for a concert; Buys concert tickets | title:band,artist,concert count:tickets,count,seats | seats:d price:f
tickets for {title}
I want {count} tickets for {title}.
Get me {count} seats at the {title} concert.
We are {count} and want to see {title} live.

cinema_program movie_times showtimes | What the cinema shows; When a film runs | title:film,movie,title place | starts:h cinema:q
the film {title} in {place}
When does {title} run in {place}?
Where can I see {title} in {place}?
Is {title} in the cinemas of {place}?

movie_info get_film film_lookup | Information on a film; Who made a film | title:film,movie,title | year:n director:q
the film {title}
Who made the film {title}?
What is the movie {title} about?
Tell me about the film {title}.

tv_program what_is_on tv_guide | What is on television; Programme of a channel | title:channel,station,network time | show:q
the programme of {title}
What is on {title} at {time}?
What does {title} show at {time}?
I want to watch {title} at {time}. What is there?

record_show tv_recorder | Record a programme; Records television | title:show,programme,title channel<count:channel,channel_number | status:s
the recording of {title}
Record {title} on channel {channel}.
I miss {title} on channel {channel}. Keep it for me.

song_lyrics get_lyrics words_of_song | Words of a song; The text of a song | title:song,track,title | lyrics:q
the words of {title}
How does the song {title} go?
Show me the words of {title}.
I want to sing {title}.

identify_song artist_of who_sings | Who sings a song; Artist of a song | title:song,track,title | artist:q year:n
the singer of {title}
Who sings {title}?
Whose song is {title}?
By whom is {title}?

create_playlist new_playlist mix_tape | Make a playlist; Creates a list of songs | title:name,playlist,title mood=happy/calm/sad/wild/romantic | songs:n
the playlist {title}
Make a {mood} playlist called {title}.
I want {mood} music, call it {title}.

podcast_search find_podcast | Find a podcast; Podcasts on a topic | text:topic,subject,about | podcast:q
a podcast about {text}
Is there a podcast about {text}?
I want to hear something about {text}.
Find a podcast on {text}.

news_search get_news headlines | News about something; Latest headlines | text:topic,subject,about | headline:q
the news about {text}
What is new about {text}?
Show me the news on {text}.
Has anything happened with {text}?

sports_score match_result get_score | Result of a match; How a team played | title:team,club,side | score:d
the match of {title}
How did {title} play?
What was the score of {title}?
Did {title} win?

league_ranking standings team_position | Position of a team; Ranking in the league | title:team,club year | rank:n points:n
the position of {title}
Where did {title} end in {year}?
Which position had {title} in the league in {year}?

lottery_numbers draw_results | Numbers of the lottery; Result of a draw | date | numbers:d
the lottery on {date}
What were the lottery numbers on {date}?
Did I win on {date}?

horoscope star_sign daily_stars | Horoscope of a sign; What the stars say | sign=aries/taurus/gemini/leo/virgo/libra/pisces date | text:q
the stars for {sign}
What do the stars say for {sign} on {date}?
I am a {sign}. How will {date} be?

joke tell_joke funny | A joke; Something funny about a topic | animal:topic,about,subject | joke:q
a joke about a {animal}
Tell me a joke about a {animal}.
Make me laugh. I like the {animal}.

define_word dictionary word_meaning | Meaning of a word; Looks a word up in the dictionary | word | meaning:q
the word {word}
What does the word {word} mean?
Look up {word} in the dictionary.
I do not know the word {word}.

synonyms find_synonym thesaurus | Words with the same meaning; Synonyms of a word | word | synonyms:q
another word for {word}
What is another word for {word}?
Give me a synonym of {word}.
How else can I say {word}?

rhyme find_rhymes | Words that rhyme; Rhymes of a word | word | rhymes:q
a rhyme for {word}
What rhymes with {word}?
I write a poem and need something that sounds like {word}.

check_spelling spell_check proofread | Check the spelling; Finds mistakes in a text | text:text,sentence,content | mistakes:n
the spelling of {text}
Is this spelled right: {text}
Check "{text}" for mistakes.
Correct my text: {text}

summarize summary shorten_text | Shorten a text; The main points of a text | text:text,content,document words<count:words,max_words,length | summary:q
the summary of {text}
Sum up "{text}" in {words} words.
Say this in {words} words: {text}
Shorten {text} to {words} words.

detect_language which_language | Language of a text; Tells which language it is | text:text,sentence | language:q
the language of {text}
Which language is this: {text}
In what language is "{text}" written?

speak_text read_aloud text_to_speech | Say a text aloud; Reads a text | text voice=male/female/child/robot | file:d
the spoken {text}
Say "{text}" with a {voice} voice.
Read this aloud, {voice} voice: {text}

make_image draw_picture generate_image | Make a picture; Draws what is described | text:prompt,description,subject size=small/medium/large | url:d
the picture of {text}
Draw {text}, {size}.
Make a {size} picture of {text}.
I want to see {text} as a {size} image.

resize_image scale_photo | Change the size of a picture; Scales a photo | path:file,image,path percent | width:n
the picture {path}
Make {path} {percent} percent of its size.
Scale the photo {path} to {percent} percent.

convert_file change_format to_format | Change the format of a file; Converts a file | path format=pdf/png/csv/docx/mp3/html | file:q
the file {path} as {format}
Turn {path} into {format}.
I need {path} as {format}.
Save {path} as a {format}.

share_file send_file give_access | Share a file; Gives a person access to a file | path person:with,user,recipient | link:d
the file {path} for {person}
Share {path} with {person}.
Give Dr. {person} the file {path}.
{person} needs to see {path}.
Let {person} have the file {path}.

backup_folder save_copy make_backup | Make a backup; Copies a folder to a safe place | path:folder,path,directory | size:n status:s
the backup of {path}
Make a backup of {path}.
Keep a safe copy of {path}.
I don't want to lose {path}.

list_files show_folder ls | What is in a folder; Lists the files | path:folder,path,directory | files:n
the folder {path}
What files are in {path}?
Show me the folder {path}.
List {path}.

run_query database_query sql | Ask the database; Runs a query on a collection | word:collection,dataset,source count:limit,max_rows | rows:n
the rows of {word}
Give me {count} rows of {word}.
Show the first {count} entries of the data set {word}.

server_status ping is_up | Whether a server runs; Pings a host | word:host,server,hostname | status:s ms:n
the server {word}
Is the server {word} up?
Ping {word}.
Does {word} still run?

restart_server reboot restart | Restart a server; Reboots a machine | word:server,host,machine | status:s
the restart of {word}
Restart the server {word}.
Reboot {word}, please.
{word} hangs. Start it again.

deploy release_version roll_out | Put a version into production; Deploys a service | word:service,app,project code:version,tag,build | status:s
the release of {word}
Deploy version {code} of {word}.
Roll out {word} {code}.
Bring {code} of {word} into production.

get_logs read_log show_errors | Logs of a service; Last lines of a log | word:service,app,source count:lines,limit,last | lines:n
the logs of {word}
Show the last {count} lines of the log of {word}.
What happened in {word}? I need {count} lines.

create_ticket open_issue report_bug | Report a problem; Opens a ticket | text:title,subject,summary priority=low/medium/high/urgent | id:d
the ticket {text}
Open a {priority} ticket: {text}
Report a problem with {priority} priority: {text}
Something is wrong: {text}. It is {priority}.

assign_task give_task delegate | Give a task to a person; Assigns work | code:task,task_id,ticket person:to,assignee,user | status:s
the task {code}
Give the task {code} to {person}.
{person} should do {code}.
Let {person} take over {code}.

add_todo new_task note_down | Put something on the to-do list; Creates a task | text:task,text,entry date | id:d
the task {text}
I have to do this by {date}: {text}
Put "{text}" on my list for {date}.
Note for {date}: {text}

track_time log_hours time_sheet | Record working time; Writes hours into the time sheet | hours title:project,task,client | total:n
the hours for {title}
I worked {hours} hours on {title}.
Write down {hours} hours for {title}.
Log {hours} hours, project {title}.

request_leave take_vacation days_off | Ask for days off; Requests a holiday | date:start,from,first_day days | status:s left:n
the days off from {date}
I want {days} days off from {date}.
I am away for {days} days from {date}.
Can I have a holiday of {days} days, starting {date}?

sick_note report_sick | Report that somebody is ill; A sick note | person:employee,name,who days | status:s
the sick note of {person}
{person} is ill for {days} days.
Report {person} sick, {days} days.

employee_lookup find_employee staff_search | Find a colleague; Looks up staff | person | office:d team:q
the colleague {person}
In which office is {person}?
Which team does {person} work in?
Who is {person} in our company?

visitor_pass register_guest | Pass for a visitor; Registers a guest of the office | person:visitor,guest,name date | pass:d
the pass for {person}
{person} visits us on {date}. Make a pass.
I expect {person} on {date}.
Dr. {person} comes to us on {date}.
Register {person} as a guest for {date}.

blood_pressure log_pressure health_log | Record the blood pressure; Writes down health values | systolic<percent:systolic,upper,high diastolic<percent:diastolic,lower,low | status:s
the blood pressure
My blood pressure is {systolic} over {diastolic}.
Write down {systolic} to {diastolic} as my blood pressure.

log_workout track_exercise add_training | Record a training; Writes down sport | sport=running/rowing/cycling/climbing/skating minutes | burned:n
the training
I did {minutes} minutes of {sport}.
Record {sport}, {minutes} minutes.
I was {sport} for {minutes} minutes.

drink_reminder log_water water_intake | Record what was drunk; Glasses of water | count:glasses,cups,amount | total:n
the water
I drank {count} glasses of water.
Note {count} glasses.
That makes {count} cups of water.

sleep_log track_sleep | Record the sleep; Hours of sleep | hours date:night,date,day | average:f
the sleep on {date}
I slept {hours} hours on {date}.
Write down {hours} hours of sleep for {date}.

pharmacy_order order_medicine get_pills | Order medicine; Medicine from the pharmacy | word:medicine,drug,name count:packs,quantity,amount | status:s price:f
the medicine {word}
I need {count} packs of {word} from the pharmacy.
Order {count} {word} pills for me.
My {word} is used up. Get {count}.

drug_info side_effects medicine_lookup | Information on a medicine; Side effects of a drug | word:medicine,drug,substance | effects:q
the medicine {word}
What are the side effects of {word}?
Can I take {word}?
What is {word} good for?

find_hospital nearest_clinic emergency_room | Nearest hospital; Where the next clinic is | place | name:q distance:n
the hospital in {place}
Where is the next hospital in {place}?
I am hurt and I am in {place}.
Find a clinic near {place}.

emergency_number who_to_call | Number for emergencies; Whom to call in a country | place service=police/fire/ambulance | number:n
the {service} in {place}
How do I call the {service} in {place}?
Which number has the {service} in {place}?

plant_care how_to_water plant_info | How to care for a plant; Care of plants | plant=rose/cactus/fern/ivy/basil/orchid | water:q light:q
the care of a {plant}
How often must I water a {plant}?
My {plant} looks bad. What does it need?
How do I care for a {plant}?

water_plants irrigation start_sprinkler | Water the garden; Starts the sprinkler | minutes zone=front/back/left/right/roof | status:s
the water for the {zone}
Water the {zone} garden for {minutes} minutes.
The plants in the {zone} are dry, {minutes} minutes please.

mow_lawn start_mower robot_mower | Cut the grass; Starts the robot in the garden | hours | status:s
the lawn
Cut the grass for {hours} hours.
The lawn is too high. Mow it for {hours} hours.

vacuum start_vacuum robot_clean | Clean a room; Starts the vacuum robot | room | status:s battery:%
the {room} floor
Vacuum the {room}.
The {room} is dirty.
Send the robot to clean the {room}.

blinds set_blinds shutter_control | Move the blinds; Opens or closes the shutters | room percent | status:s
the blinds in the {room}
Close the blinds in the {room} to {percent} percent.
It is too bright in the {room}. Blinds to {percent}.

washing_machine start_wash laundry | Start the washing machine; Washes clothes | program=cotton/wool/silk/quick/sport temperature<percent:temperature,degrees,heat | minutes:n
the laundry
Wash my clothes, {program}, {temperature} degrees.
Start the washing machine with {program} at {temperature} degrees.

oven_control preheat set_oven | Heat the oven; Sets the oven | degrees<amount:degrees,temperature,heat minutes | status:s
the oven
Heat the oven to {degrees} degrees for {minutes} minutes.
I bake for {minutes} minutes at {degrees} degrees.

coffee_machine make_coffee brew | Make coffee; Starts the coffee machine | count:cups,amount kind=espresso/latte/filter/mocha | status:s
the {kind}
Make {count} cups of {kind}.
I want {count} {kind}.
{kind} for {count} people, please.

security_camera show_camera camera_view | Picture of a camera; Shows what a camera sees | room:camera,room,where | url:d
the camera in the {room}
What is going on in the {room}?
Show me the camera in the {room}.
Is somebody in the {room}?

energy_use power_meter electricity | Use of electricity; How much power was used | room days | kwh:f
the power in the {room}
How much electricity did the {room} use in {days} days?
What power did I need in the {room} in the last {days} days?

solar_output solar_power get_solar | Power of the solar panels; What the roof delivers | date | kwh:f
the solar power on {date}
How much sun power did we make on {date}?
What did the roof deliver on {date}?

unit_converter convert_units to_unit | Convert a measure; From one unit into another | amount source=meters/feet/miles/kilometers/inches target=yards/centimeters/leagues/furlongs | value:f
{amount} {source} in {target}
How many {target} are {amount} {source}?
Convert {amount} {source} to {target}.
What is {amount} {source} in {target}?

time_difference timezone_gap compare_times | Difference of time between two places; How many hours lie between two cities | place:from,first,city_a target<place:to,second,city_b | hours:n
the time between {place} and {target}
How many hours is {place} ahead of {target}?
What is the time difference between {place} and {target}?

days_until countdown_days days_between | Days until a date; How long it still takes | date:date,target,event_date | days:n
the days until {date}
How many days are left until {date}?
How long is it until {date}?

public_holidays get_holidays free_days | Public holidays; Which days are free | place:country,region,place year | days:n
the holidays in {place}
Which holidays are there in {place} in {year}?
When do people not work in {place} in {year}?

visa_info visa_needed travel_rules | Whether a visa is needed; Rules for travelling | place:destination,country,to nation=german/french/indian/chinese/american | needed:s days:n
the visa for {place}
Do I need a visa for {place}? I am {nation}.
Can a {nation} citizen go to {place}?

passport_status check_passport | State of a passport application; Whether a passport is ready | code:application,application_id,number | status:s
the passport {code}
Is my passport ready? The number is {code}.
Check my passport application {code}.

fine_lookup traffic_ticket check_fine | Look up a fine; What must be paid for driving too fast | code:plate,license_plate,number | fine:f
the fine for {code}
Did {code} drive too fast?
Is there a fine for the plate {code}?

car_value used_car_price vehicle_estimate | What a used car is worth; Value of a vehicle | title:model,make,vehicle year | value:N
the value of {title}
What is a {title} from {year} worth?
I want to sell my {title}, built in {year}.

insurance_quote get_insurance insure | Price of an insurance; What it costs to insure something | item amount:value,worth,sum | price:f
the insurance of the {item}
What does it cost to insure a {item} worth {amount}?
Insure my {item} for {amount}.

parcel_price shipping_cost postage | What it costs to send a parcel; Postage | kilos<count:weight,kilos,kg place:destination,to,place | price:f
the parcel to {place}
What does it cost to send {kilos} kilos to {place}?
Postage for {kilos} kilos to {place}?
I send {kilos} kilos to {place}. What do I pay?

pickup_parcel collect_package order_pickup | Have a parcel collected; Orders a courier | place:address,place,from time | status:s id:d
the pickup in {place}
Pick up a parcel in {place} at {time}.
A courier should come to {place} at {time}.
I need a courier in {place} at {time}.

donate give_money charity | Give money to a good cause; Makes a donation | amount title:cause,organization,charity | status:s
the donation to {title}
Give {amount} to {title}.
I want to donate {amount} for {title}.

vote cast_vote poll_answer | Vote in a poll; Gives a vote | title:poll,question,survey option=yes/no/maybe/abstain | votes:n
the vote on {title}
I vote {option} on {title}.
Put me down as {option} for {title}.

follow_user subscribe add_friend | Follow somebody; Adds a friend in the network | person:user,account,friend | status:s
the contact with {person}
I want to follow {person}.
Add {person} to my friends.
Subscribe to {person}.

block_user mute_person ban | Block somebody; No more messages from a person | person:user,account,who days | status:s
the block of {person}
Block {person} for {days} days.
I don't want to hear from {person} for {days} days.

post_update publish_status share_post | Publish something; Writes into the network | text:text,post,status network=blog/forum/feed/group | url:d
the post {text}
Post this in the {network}: {text}
Tell everybody in the {network}: {text}
Publish "{text}" in the {network}.

qr_code make_qr barcode | Make a code that phones can read; Creates a QR code | text:content,data,text | url:d
the code for {text}
Make a QR code for {text}.
I want people to scan {text}.

generate_password new_password strong_password | Make a password; Creates a safe password | count:length,characters,size | password:d
the password
I need a password with {count} characters.
Give me a safe password, {count} letters long.

reset_password forgot_login unlock_account | Reset a password; Help when the login is lost | person:user,account,login | status:s
the login of {person}
{person} forgot the password.
Reset the login of {person}.
Let {person} in again.

open_app launch start_program | Start a program; Opens an app | title:app,program,application | status:s
the app {title}
Open the app {title}.
Start {title}.
I want to use {title}.

take_screenshot capture_screen | Take a picture of the screen; Saves what is shown | path:file,save_as,path | status:s
the picture of the screen
Take a screenshot and save it as {path}.
Save what you see in {path}.

set_brightness screen_light dim | Brightness of the screen; Makes the screen brighter or darker | percent | status:s
the brightness
Make the screen {percent} percent bright.
It is too dark. Brightness {percent}.
Dim to {percent}.

wifi_control join_network connect_wifi | Join a network; Connects to wireless internet | word:network,ssid,name code:password,key | status:s
the network {word}
Connect to the network {word} with the password {code}.
Join {word}, the key is {code}.

find_phone ring_device locate_device | Find a lost device; Lets a device ring | device=phone/tablet/laptop/watch/keys | place:p
my {device}
Where is my {device}?
I lost my {device}.
Let my {device} ring.
"""
)
