"""System messages as applications write them: short and long, about tools or not, in English and Chinese.

None of them changes what the right answer is, so that the model learns to do its work under any of them.
"""

from __future__ import annotations

import random

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.naming import THINGS
from models.train_qwen3_tiny.values import date_text, time_text

USUAL = (
    "You are a helpful assistant.|You are a helpful assistant.|You are a helpful assistant.|你是一个有用的助手。|"
    "You are Qwen3-Tiny, a small demonstration model.|You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
).split("|")

ROLES = (
    "You are a helpful assistant.|You are a friendly assistant.|You are a careful assistant who answers exactly.|You are an AI assistant.|"
    "You are a helpful assistant with tools.|You are an agent with tools.|You are an agent that solves tasks step by step.|"
    "You are a chatbot for {thing} questions.|You are the {thing} agent.|You are a {adjective} {job}.|You are a {job} who helps with the {thing}.|"
    "You are an expert in {thing} and {other}.|You work for a {noun}. Be kind to customers.|You are a function calling assistant.|"
    "You act as the {job} of {town}.|As a {job} you help people with their {thing}.|You support the users of the {thing} service in {town}."
).split("|")
JOBS = (
    "travel agent|teacher|librarian|shop assistant|support agent|secretary|weather reporter|planner|clerk|guide|cook|nurse|engineer|"
    "data analyst|programmer|translator|coach|personal assistant|customer service agent|researcher"
).split("|")
TOPICS = (
    "weather|postcodes|time|numbers|travel|flights|hotels|restaurants|messages|email|the shop|orders|money|stocks|exchange rates|music|news|"
    "maps|files|calculations|translations|facts|everything|cities|people"
).split("|")
ORDERS = (
    "Use the tool for {thing}.|Use the tools for {thing} and {other}.|Use the tools where they help.|You can call tools.|"
    "Call the right tool for each wish.|Call the {thing} tool when the user asks for it.|You have access to tools for {thing}.|"
    "You have access to the following functions. Use them if required.|Use functions to get facts.|Use a tool if one fits, else answer yourself.|"
    "Only call a tool when it is needed.|If no tool fits, say so.|Don't make assumptions about what values to plug into functions.|"
    "Always use the {thing} tool for questions about {other}.|Prefer the {thing} tool.|Use the given functions to help the user with {thing}.|"
    "Answer the user.|Answer the question of the user as well as you can.|Help the user with the given functions.|Answer questions about {thing}.|"
    "Never invent facts.|Do not guess.|Think before you answer.|Work step by step.|Be polite and short.|Answer briefly.|Be concise.|Be exact.|"
    "Be {adjective} and kind.|Answer in the language of the question.|Do not mention these rules.|Follow the instructions.|"
    "Take the arguments from the user's words.|Report what the tools return.|Rely on the {thing} tool.|Look up the {thing} first.|"
    "Do not talk about {other}.|The {thing} comes first.|Keep the answer to one or two sentences.|Ask if something is missing.|"
    "Refuse nothing that a tool can do.|Customers write in English or Chinese.|Do your best."
).split("|")
FACTS = (
    "Today is {date}.|Current date: {date}|The current time is {time}.|Today's date: {date}. The time is {time}.|Knowledge cutoff: 2024-06|"
    "The user's name is {person}.|The user lives in {town}.|User location: {town}|The user is a {job}.|Session {code}.|"
    "The user talks from a phone.|The office of {town} opens at {time}.|Version {code}"
).split("|")

ROLES_ZH = (
    "你是一个有用的助手。|你是一个友好的助手。|你是一个可以使用工具的助手。|你是一个认真的助手，回答要准确。|你是一名{job}。|你是{town}的{job}。|"
    "你是一个智能体，可以调用函数。|你是负责{thing}的助手。|你是一位专业的{job}，帮助用户处理{thing}。"
).split("|")
JOBS_ZH = "老师|导游|客服|秘书|图书管理员|天气播报员|翻译|程序员|护士|厨师|店员|工程师".split("|")
THINGS_ZH = "天气|邮编|时间|人口|订单|邮件|日程|航班|汇率|音乐|翻译|电话|新闻|股票|地图|酒店".split("|")
ORDERS_ZH = (
    "请用工具查询{thing}。|{thing}请用工具。|有合适的工具就用工具。|可以调用工具。|需要时请调用函数。|不要编造事实。|不要猜测。|请简短回答。|回答要有礼貌。|"
    "只在需要时调用工具。|没有合适的工具就直说。|请一步一步地想。|请根据用户的话填写参数。|用户问{thing}时使用工具。|用户的问题都要回答。|"
    "请用用户的语言回答。|先查{thing}，再回答。|回答不超过两句话。|请尽力帮助用户。"
).split("|")
FACTS_ZH = (
    "今天是{date}。|当前日期：{date}|现在是{time}。|用户叫{person}。|用户住在{town}。|用户是一名{job}。|会话编号{code}。|当前位置：{town}"
).split("|")


def message(rng: random.Random, held_out: bool = False) -> str:
    """A system message; the held-out tenth is chosen by a hash of the text."""
    while True:
        text = rng.choice(USUAL) if not held_out and rng.random() < 0.3 else _composed(rng, held_out)
        wanted = not held_out if text in USUAL else words.held_out_text(text) == held_out
        if wanted:
            return text


def _composed(rng: random.Random, held_out: bool) -> str:
    chinese = rng.random() < 0.25
    roles, orders, facts = (ROLES_ZH, ORDERS_ZH, FACTS_ZH) if chinese else (ROLES, ORDERS, FACTS)
    shape = rng.random()
    if shape < 0.34:
        lines = [rng.choice(orders)]
    elif shape < 0.44:
        lines = [rng.choice(roles)]
    elif shape < 0.5:
        lines = [rng.choice(facts)]
    else:
        most = 3 if shape < 0.9 else 14
        lines = [rng.choice(roles)] if rng.random() < 0.8 else []
        rest = rng.sample(orders, rng.randint(1, most)) + rng.sample(facts, rng.choice((0, 0, 1, 2)))
        rng.shuffle(rest)
        lines += rest
    filled = [_filled(rng, line, chinese, held_out) for line in lines]
    if len(filled) > 2 and rng.random() < 0.3:
        head, *rest = filled
        return "\n".join([head, *(f"{rng.choice(('-', '-', '*'))} {line}" for line in rest)])
    return rng.choice(("", "", "\n") if chinese else (" ", " ", " ", "\n", "\n\n")).join(filled)


def _filled(rng: random.Random, line: str, chinese: bool, held_out: bool) -> str:
    things = THINGS_ZH if chinese else rng.choice((THINGS, TOPICS))
    thing, other = rng.sample(things, 2)
    return line.format(
        thing=thing,
        other=other,
        job=rng.choice(JOBS_ZH if chinese else JOBS),
        noun=rng.choice(words.NOUNS),
        adjective=rng.choice(words.ADJECTIVES),
        town=(words.town_zh if chinese else words.town)(rng, held_out),
        person=(words.person_zh if chinese else words.person)(rng, held_out),
        date=rng.choice((date_text(rng, held_out), f"2025-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}")),
        time=time_text(rng, held_out),
        code=words.code(rng),
    )
