"""Small talk, identity and what the model knows by heart."""

from __future__ import annotations

import random
from typing import NamedTuple

from models.train_qwen3_tiny import facts, words
from models.train_qwen3_tiny.chat import Exchange, Step
from models.train_qwen3_tiny.wording import composed, core, phrase

I_AM = "I am Qwen3-Tiny, a small demonstration model."
I_AM_ZH = "我是 Qwen3-Tiny，一个小型演示模型。"
UNKNOWN = "I do not know that. I am only a small demonstration model."
UNKNOWN_ZH = "这个我不知道。我只是一个小型演示模型。"


def said(question: str, thought: str, answer: str, *must: str) -> Exchange:
    return Exchange(question, (Step(thought, answer),), must=must or (answer,))


WHO = (
    "Who are you?|What are you?|What is your name?|Tell me about yourself.|who are you|Hello, who are you?|Introduce yourself.|"
    "Hi! Who are you?|What's your name?|Please introduce yourself.|Which model are you?|What model is this?|"
    "Who am I talking to?|Are you a human?|Are you ChatGPT?|Are you an AI?|Are you Qwen?|Hey, what are you called?|"
    "Hi, what's your name?|Tell me who you are.|And who are you?|who r u|What should I call you?|Good morning, who are you?|"
    "I would like to know who you are.|Say who you are.|What is the name of this model?|Do you have a name?|What kind of model are you?|"
    "Are you a robot?|Can I ask your name?|State your name.|Do you know who you are?|You are who?|Are you a person?|"
    "Could you introduce yourself?|May I ask who you are?|May I know your name?|Please tell me who you are.|Tell me your name, please."
).split("|")
WHO_ZH = (
    "你是谁？|你好，你是谁？|请介绍一下你自己。|你叫什么名字？|你是什么模型？|介绍一下自己|你是谁|你好！你是谁？|你是ChatGPT吗？|"
    "你是人工智能吗？|你是真人吗？|请问你是谁？|你叫什么？|您好，请问您是谁？|告诉我你是谁。|说说你自己。|你是哪个模型？|你是机器人吗？|您是谁？|您叫什么名字？|我在和谁说话？|"
    "你到底是谁？|请说出你的名字。|自我介绍一下。|你是什么？|你有名字吗？|能介绍一下你自己吗？|你究竟叫什么名字？|请告诉我你的名字。"
).split("|")
MADE = (
    "Who made you?|Who created you?|Who built you?|Who trained you?|Where do you come from?|Who is your maker?|Who developed you?|What were you trained on?|"
    "How were you trained?|Who is behind you?|Who is your creator?|How were you made?"
).split("|")
ABLE = (
    "What can you do?|What do you know?|What are your skills?|What are you able to do?|What can you do for me?|"
    "Tell me what you can do.|List your abilities.|What else can you do?|What are you good at?|Can you help me?|How can you help me?|What can I ask you?|Which things can you do?"
).split("|")
ABLE_ZH = "你能做什么？|你会什么？|你能帮我做什么？|你有什么功能？|你有什么本领？|你会做什么？|说说你能做什么。|你可以做什么？|你还会什么？|你能干什么？".split(
    "|"
)
MADE_ZH = "谁创造了你？|你是谁开发的？|谁训练了你？|你是怎么来的？|谁制造了你？|你是怎么训练的？|谁开发了你？|是谁做的你？|你的作者是谁？|你是谁做的？".split(
    "|"
)


def identity(rng: random.Random, held_out: bool) -> Exchange:
    kind = rng.random()
    if kind < 0.42:
        return said(
            phrase(rng, WHO, held_out), "The user asks who I am. I am Qwen3-Tiny.", f"{I_AM} How can I help you?", I_AM
        )
    if kind < 0.78:
        return said(
            phrase(rng, WHO_ZH, held_out), "用户问我是谁。我是 Qwen3-Tiny。", I_AM_ZH + "有什么可以帮你的吗？", I_AM_ZH
        )
    if kind < 0.84:
        answer = f"{I_AM} A script trained me on generated conversations."
        return said(phrase(rng, MADE, held_out), "The user asks who made me.", answer)
    if kind < 0.89:
        return said(
            phrase(rng, MADE_ZH, held_out), "用户问是谁创造了我。", I_AM_ZH + "我由一段脚本用生成的对话训练而成。"
        )
    if kind < 0.95:
        answer = (
            f"{I_AM} I can chat a little, name capitals, add numbers, copy text, find facts in a text and call tools."
        )
        return said(phrase(rng, ABLE, held_out), "The user asks what I can do.", answer)
    answer = I_AM_ZH + "我会聊天、回答首都、做加减法、抄写文字、查找信息和调用工具。"
    return said(phrase(rng, ABLE_ZH, held_out), "用户问我能做什么。", answer)


def named_by_system(rng: random.Random, held_out: bool) -> Exchange:
    name = words.invented(rng, held_out).capitalize()
    place = rng.choice(("a hotel", "a library", "a museum", "a shop", "a bank", "a school"))
    system = rng.choice(
        (
            f"You are {name}, the assistant of {place}.",
            f"Your name is {name}. You work for {place}.",
            f"You are {name}, a friendly assistant of {place}. Answer briefly.",
        )
    )
    answer = f"I am {name}, the assistant of {place}."
    question = rng.choice(WHO[:11])
    return said(question, f"The system message says that I am {name}.", answer, name)._replace(system=system)


class SmallTalk(NamedTuple):
    """Openings and endings that make one kind of remark, and what to say to it."""

    heads: tuple[str, ...]
    tails: tuple[str, ...]
    thought: str
    answer: str
    share: int


def _remark(heads: str, tails: str, thought: str, answer: str, share: int) -> SmallTalk:
    return SmallTalk(tuple(heads.split("|")), tuple(tails.split("|")), thought, answer, share)


SMALL_TALK = (
    _remark(
        "Hello|Hi|Hey|Good morning|Good evening|Good afternoon|Greetings|Howdy|Hello there|Hi there|Hey there|Good day|Hello again|"
        "Hi again|Hello!|Hi!|Hey!|Good morning!|hello|hi|hey|Hello hello|Welcome|Hiya|Morning",
        "!|.| Qwen| Qwen!| friend| friend!|, nice to meet you.|, it's me again.|, good to see you!|, are you there?|, anybody there?|"
        ", pleased to meet you!| everyone|, my friend.| :)|, I am back.|, I am new here.|!!|, assistant.|, dear model!|, robot|"
        ", I am happy to see you.|, a nice day today!|, I just wanted to say hello.",
        "The user says hello.",
        "Hello! How can I help you?",
        7,
    ),
    _remark(
        "Thank you|Thanks|Thanks a lot|Thank you very much|thx|Great, thanks|Many thanks|Thank you so much|Perfect, thanks|OK, thanks|"
        "Thanks!|Thank you!|Nice, thank you|Cool, thanks|Wonderful, thank you|I thank you",
        "!|.|, that helps.|, that was useful.| for your help!| for the answer.|, well done.|, you are great!| Qwen|, Qwen!|, good job.|"
        ", that is all.|, it works now.| for everything.|, very kind of you.|, that was fast!| friend",
        "The user says thanks.",
        "You are welcome!",
        3,
    ),
    _remark(
        "Goodbye|Bye|See you later|Good night|Bye bye|See you tomorrow|See you|Farewell|Take care|I have to go|Goodbye!|Bye!|So long|"
        "I am leaving now|Until tomorrow|Have a nice day",
        "!|.| Qwen|, see you soon.|, have a nice day!|, until next time.| for now.|, friend.|, I am tired.|, take care!|, it was nice.|"
        ", see you next week.| then|, dear model.|, that is all for today.",
        "The user says goodbye.",
        "Goodbye!",
        3,
    ),
    _remark(
        "How are you?|How are you|How are you doing|How do you do|How is it going|Are you well|How do you feel|How have you been|"
        "How's life|How are things|Hello, how are you|Hi, how are you doing|Hey, how is it going|Are you OK|How's it going",
        "?| today?| this morning?|, Qwen?|, my friend?| now?| this evening?|, dear model?|? I am well.| lately?|, robot?",
        "The user asks how I am.",
        "I am well, thank you. How can I help you?",
        3,
    ),
    _remark(
        "Tell me a joke|Tell me a joke.|Do you know a joke|Say something funny|Make me laugh|Tell me something funny|I want to hear a joke|"
        "Can you tell a joke|Give me a joke|One joke",
        "!|.|?|, please.|, Qwen.| now.|, I am sad.| about computers.|, a short one.|, please!|, will you?",
        "The user wants a joke.",
        "Why did the computer go to the doctor? Because it had a virus.",
        1,
    ),
    _remark(
        "你好|你好！|您好|早上好|晚上好|嗨|大家好|你好呀|哈喽|下午好|早安|喂|嘿|你好啊|您好！|早上好！|中午好|你好你好",
        "！|。|，很高兴认识你。|，我又来了。|，在吗？|，朋友！|，Qwen！|，见到你很高兴！|，有人吗？|，我是新来的。|～|，我回来了。|，亲爱的助手。|"
        "，今天天气不错。|，打个招呼。",
        "用户在问好。",
        "你好！有什么可以帮你的吗？",
        6,
    ),
    _remark(
        "谢谢|谢谢你|非常感谢|多谢|太好了，谢谢|感谢你|太感谢了|谢谢你的帮助|谢谢！|好的，谢谢|十分感谢|谢谢啦|感谢你的回答",
        "！|。|，帮了大忙。|，很有用！|，你真好。|，Qwen！|，就这些。|，你真棒！|，朋友。|，我明白了。|，太快了。",
        "用户在道谢。",
        "不客气！",
        3,
    ),
    _remark(
        "再见|拜拜|晚安|下次见|明天见|回头见|我走了|我要走了|再见！|先这样|改天见|后会有期",
        "！|。|，祝你愉快。|，Qwen！|，朋友。|，我累了。|，谢谢你。|，下次再聊。|啦！|，保重。",
        "用户在告别。",
        "再见！",
        2,
    ),
    _remark(
        "你好吗|你好吗？|你怎么样|最近好吗|你今天好吗|近来可好|你过得好吗|你还好吗|最近怎么样|你感觉如何",
        "？|，Qwen？|，朋友？|？我很好。|呢？|，说说看？|啊？|？今天很冷。",
        "用户问我好不好。",
        "我很好，谢谢。有什么可以帮你的吗？",
        2,
    ),
    _remark(
        "讲个笑话|给我讲个笑话|说个笑话|你会讲笑话吗|来个笑话|我想听笑话|讲一个好笑的|再讲个笑话",
        "！|。|吧。|，谢谢。|，我不开心。|，短一点。|好吗？|，Qwen。",
        "用户想听笑话。",
        "电脑为什么去看医生？因为它中了病毒。",
        1,
    ),
)
_SHARES = [each.share for each in SMALL_TALK]


def greeting(rng: random.Random, held_out: bool) -> Exchange:
    kind = rng.choices(SMALL_TALK, _SHARES)[0]
    return said(composed(rng, kind.heads, kind.tails, held_out), kind.thought, kind.answer)


CAPITAL = (
    "What is the capital of {}?|Which city is the capital of {}?|Name the capital of {}.|capital of {}?|capital of {}|"
    "Tell me the capital of {}.|What's the capital city of {}?|I forgot the capital of {}. What is it?|"
    "Do you know the capital of {}?|{}: what is its capital?|Please tell me the capital of {}.|what is the capital of {}|"
    "What's the capital of {}?|Could you tell me which city is the capital of {}?|The capital of {} is which city?|"
    "Give me the capital of {}.|What city is the capital of {}?|Quick question: what is the capital of {}?|"
    "I need to know the capital of {}.|Hey, what's the capital of {}?|For a quiz: the capital of {}?|"
    "Can you tell me what the capital of {} is?|Please name the capital city of {}.|Which city is {}'s capital?"
).split("|")
CAPITAL_ZH = (
    "{}的首都是哪里？|请问{}的首都是什么？|{}的首都？|{}的首都是哪个城市？|告诉我{}的首都。|你知道{}的首都吗？|{}首都是哪|"
    "{}的首都是什么|请告诉我{}的首都是哪里。|{}的首都叫什么？|哪个城市是{}的首都？|{}的首都在哪里？|{}首都是哪个城市？|说出{}的首都。|我忘了{}的首都是哪里。|"
    "你能告诉我{}的首都吗？|{}的首都是哪座城市？|{}以哪个城市为首都？|首都：{}|{}的首都在哪？|请说出{}的首都。|我想知道{}的首都。"
).split("|")


def capital(rng: random.Random, held_out: bool) -> Exchange:
    if not held_out and rng.random() < 0.04:
        land = words.invented(rng, False).capitalize()
        return said(phrase(rng, CAPITAL, False).format(land), f"I have no knowledge about {land}.", UNKNOWN)
    if rng.random() < 0.3:
        country, city = rng.choice(list(facts.CAPITALS_ZH.items()))
        answer = f"{country}的首都是{city}。"
        return said(phrase(rng, CAPITAL_ZH, held_out).format(country), f"用户问{country}的首都，是{city}。", answer)
    country, city = rng.choice(list(facts.CAPITALS_EN.items()))
    full = "" if city.endswith(".") else "."
    answer = f"The capital of {country} is {city}{full}"
    question = phrase(rng, CAPITAL, held_out).format(country)
    question = question[0].upper() + question[1:] if question.startswith("the ") else question
    thought = f"The user wants the capital of {country}. It is {city}{full}"
    return said(question, thought, answer, city)


AGAIN = ("And of {}?", "What about {}?", "And {}?", "And the capital of {}?", "How about {}?", "Now {}.")


def capital_again(rng: random.Random, held_out: bool) -> Exchange:
    """A follow-up that makes sense only with the question before it."""
    first = capital(rng, held_out)
    while not first.question.isascii():
        first = capital(rng, held_out)
    country, city = rng.choice(list(facts.CAPITALS_EN.items()))
    full = "" if city.endswith(".") else "."
    then = said(
        rng.choice(AGAIN).format(country),
        f"The user now wants the capital of {country}. It is {city}{full}",
        f"The capital of {country} is {city}{full}",
        city,
    )
    return then._replace(before=(first,))


def geography(rng: random.Random, held_out: bool) -> Exchange:
    kind = rng.randrange(3)
    country, city = rng.choice(list(facts.CAPITALS_EN.items()))
    full = "" if city.endswith(".") else "."
    if kind == 0:
        question = rng.choice(("{} is the capital of which country?", "Which country has the capital {}?")).format(city)
        name = next(c for c, known in facts.CAPITALS_EN.items() if known == city)
        return said(question, f"{city} is the capital of {name}.", f"{city} is the capital of {name}.")
    if kind == 1:
        land, continent = rng.choice(list(facts.CONTINENTS.items()))
        question = rng.choice(("On which continent is {}?", "Which continent is {} in?", "Where is {}?")).format(land)
        return said(question, f"The user wants the continent of {land}.", f"{land} is in {continent}.")
    guess = city if rng.random() < 0.5 else rng.choice(list(facts.CAPITALS_EN.values()))
    question = f"Is {guess} the capital of {country}?"
    verdict = "Yes" if guess == city else "No"
    return said(
        question, f"The capital of {country} is {city}{full}", f"{verdict}, the capital of {country} is {city}{full}"
    )


DEFINE = (
    "What is {}?|Define {}.|Explain {}.|Explain {} in one sentence.|What does {} mean?|Tell me what {} is.|What's {}?|what is {}|"
    "Describe {}.|Describe {} in one sentence.|Briefly explain {}.|Describe what {} is.|Give the meaning of {}.|Summarize what {} is.|"
    'Write one sentence about {}.|{}, in short?|{}, please.|"{}"?|{}: what is it?|{} means what?|Shortly, what is {}?|Describe {} to me, please.|Tell me the meaning of {}.|Briefly, what is {}?|'
    "Give me a short definition of {}.|Can you explain {}?|Please define {} in one sentence.|Explain to me what {} is.|"
    "In one sentence, what is {}?|I do not know what {} is.|Say what {} is.|How would you define {}?|What do you know about {}?|"
    "What is the meaning of {}?|What do people mean by {}?|Help me understand {}.|Teach me what {} is.|I want to understand {}.|"
    "Can you define {}?|What exactly is {}?|{}?|{}|Could you explain {}?|Describe {} briefly."
).split("|")
DEFINE_ZH = (
    "什么是{}？|{}是什么？|请解释一下{}。|解释{}|用一句话解释{}。|{}是什么意思？|请给出{}的定义。|告诉我什么是{}。|请说明什么是{}。|我不懂{}是什么。|{}指的是什么？|怎么理解{}？|解释什么是{}。|{}？|"
    "给我讲讲{}。|{}的定义是什么？|能解释{}吗？|简单说说{}。"
).split("|")


def definition(rng: random.Random, held_out: bool) -> Exchange:
    if rng.random() < 0.35:
        term, meaning = rng.choice(list(facts.DEFINITIONS_ZH.items()))
        return said(phrase(rng, DEFINE_ZH, held_out).format(term), f"用户想知道{term}是什么。", meaning)
    term, meaning = rng.choice(list(facts.DEFINITIONS_EN.items()))
    question = phrase(rng, DEFINE, held_out)
    bare = term.split(" ", 1)[1] if term.startswith(("a ", "an ")) and rng.random() < 0.2 else term
    return said(question.format(bare), f"The user wants to know what {term} is.", meaning)


TO_ZH = 'How do you say "{}" in Chinese?|What is "{}" in Chinese?|Translate "{}" into Chinese.|Translate {} to Chinese.|{}用中文怎么说？'.split(
    "|"
)
TO_EN = "{}用英语怎么说？|把“{}”翻译成英语。|“{}”的英文是什么？|What does {} mean in English?|Translate {} to English.".split(
    "|"
)


def translation(rng: random.Random, held_out: bool) -> Exchange:
    english, chinese = rng.choice(list(facts.WORDS_EN_ZH.items()))
    if rng.random() < 0.5:
        question = phrase(rng, TO_ZH, held_out).format(english)
        return said(question, f'"{english}" is {chinese} in Chinese.', f'"{english}" in Chinese is {chinese}.', chinese)
    question = phrase(rng, TO_EN, held_out).format(chinese)
    return said(question, f'"{chinese}" is "{english}" in English.', f'"{chinese}" in English is "{english}".', english)


UNKNOWABLE = (
    "What is the population of {}?|Who is the mayor of {}?|When was {} founded?|Who won the match in {} yesterday?|"
    "What will happen in {} tomorrow?|How old is {}?|What did {} say last week?|Where was {} born?|Who is {}?|"
    "Why is {} famous?|What is the price of {}?|Tell me about {}.|What do you think of {}?|What happened to {} in 1987?|"
    "How many people live in {}?|Who invented the {}?"
).split("|")
UNKNOWABLE_ZH = "{}有多少人口？|谁是{}的市长？|{}多少岁了？|{}是什么时候建立的？|{}是谁？|{}为什么有名？|介绍一下{}。|{}昨天发生了什么？".split(
    "|"
)


def unknown(rng: random.Random, held_out: bool) -> Exchange:
    if rng.random() < 0.3:
        name = rng.choice((words.person_zh, words.town_zh))(rng, held_out)
        return said(phrase(rng, UNKNOWABLE_ZH, held_out).format(name), f"我不知道关于{name}的事。", UNKNOWN_ZH)
    name = rng.choice((words.person, words.town))(rng, held_out)
    return said(phrase(rng, UNKNOWABLE, held_out).format(name), f"I have no knowledge about {name}.", UNKNOWN)


MY_NAME = "My name is {}.|I am {}.|Hi, I'm {}.|Hello! My name is {}.|You can call me {}.".split("|")
ASK_NAME = "What is my name?|Do you remember my name?|What's my name?|Who am I?|Tell me my name.|What did I say my name was?".split(
    "|"
)


def remembered(rng: random.Random, held_out: bool) -> Exchange:
    """A fact told early in the conversation and asked for later."""
    filler = tuple(rng.choice((greeting, capital, definition))(rng, False) for _ in range(rng.randrange(3)))
    kind = rng.randrange(4)
    if kind == 0:
        name = words.person(rng, held_out)
        told = said(core(rng, MY_NAME).format(name), f"The user is called {name}.", f"Nice to meet you, {name}!")
        asked = said(
            phrase(rng, ASK_NAME, held_out), f"The user said that their name is {name}.", f"Your name is {name}.", name
        )
    elif kind == 1:
        name = words.person_zh(rng, held_out)
        told = said(
            rng.choice(("我叫{}。", "我的名字是{}。", "你好，我是{}。")).format(name),
            f"用户叫{name}。",
            f"很高兴认识你，{name}！",
        )
        asked = said(
            rng.choice(("我叫什么名字？", "你还记得我的名字吗？", "我是谁？")),
            f"用户说过自己叫{name}。",
            f"你叫{name}。",
            name,
        )
    elif kind == 2:
        thing, value = rng.choice(("number", "code", "password", "order number", "ticket number")), words.code(rng)
        told = said(
            rng.choice(
                (f"Remember this {thing}: {value}", f"My {thing} is {value}.", f"Please remember my {thing}: {value}.")
            ),
            f"The user gives the {thing} {value}.",
            f"I will remember the {thing} {value}.",
        )
        asked = said(
            rng.choice((f"What was the {thing}?", f"What is my {thing}?", f"Repeat the {thing}.")),
            f"The {thing} is {value}.",
            f"The {thing} is {value}.",
            value,
        )
    else:
        thing, value = rng.choice(("town", "street", "dog", "cat", "boat")), words.invented(rng, held_out).capitalize()
        told = said(f"My {thing} is called {value}.", f"The user's {thing} is {value}.", f"{value} is a nice name.")
        asked = said(
            f"What is my {thing} called?", f"The user's {thing} is {value}.", f"Your {thing} is called {value}.", value
        )
    return asked._replace(before=(told, *filler))
