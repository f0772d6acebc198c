"""Chat templates of the kinds that real teachers have, each short, each with its kind's habit."""

# Every message alike, and nothing else: roles are taken as they come.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Generation marks around what the assistant says.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# The text begins with what the assistant says, white space around it is cut off.
MARKED_TRIMMED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content | trim }}<|im_end|>{% endif %}{% endfor %}"
)

# Thoughts are kept in the turns behind the last question, dropped in those before it; the last turn
# has a block of them even where it is empty; `enable_thinking=false` puts that block in the prompt.
THINKING = """
{%- if tools %}<|im_start|>system
Tools:{% for tool in tools %}
{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in messages if m.role == 'user' %}{% set ns.last = messages.index(m) %}{% endfor %}
{%- for m in messages %}
{%- if m.role in ('user', 'system') %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% elif m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% elif m.role == 'assistant' %}
{%- set thoughts = m.reasoning_content or '' %}<|im_start|>assistant
{% if loop.index0 > ns.last and (loop.last or thoughts) %}<think>
{{ thoughts }}
</think>

{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{% set given = call.function.arguments %}{"name": "{{ call.function.name }}", "arguments":
{{- ' ' + (given if given is string else given | tojson) }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""

# The prompt opens a block of thoughts; what is rendered of a turn has none, not even of the last.
REASONED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content.split('</think>')[-1] }}<|im_end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)

# Thoughts are dropped everywhere, and the prompt opens none.
FORGETFUL = REASONED.replace("<|assistant|><think>\n{% endif %}", "<|assistant|>{% endif %}")

# Channels, and another end of the last turn than of those before it; the date stands in the prompt.
CHANNELS = (
    "<|start|>system<|message|>Today: {{ strftime_now('%Y-%m-%d') }}<|end|>"
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}"
    "{% if m.thinking and loop.last %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "<|start|>assistant{% endif %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

# Calls are read where the content is null, their arguments must be text.
NULL_CALLS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% elif m.role == 'assistant' and m.content is none %}<|assistant|>"
    "{% for call in m.tool_calls %}<|call|>{{ call.function.name + ' ' + call.function.arguments }}"
    "{% endfor %}<|im_end|>{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}<|im_end|>"
    "{% elif m.role == 'tool' %}<|tool|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Arguments are made JSON, so that they must be an object; tools are told.
OBJECT_CALLS = (
    "{% if tools %}<|system|>{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{% if m.tool_calls %}{% for call in m.tool_calls %}"
    '{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}'
    "{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Roles must alternate, the system's words stand in the user's turn, white space is cut off.
ALTERNATING = (
    "{{ bos_token }}{% set first = '' %}{% set rest = messages %}"
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|turn|>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first else '' }}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "marked": MARKED,
    "marked_trimmed": MARKED_TRIMMED,
    "thinking": THINKING,
    "reasoned": REASONED,
    "forgetful": FORGETFUL,
    "channels": CHANNELS,
    "null_calls": NULL_CALLS,
    "object_calls": OBJECT_CALLS,
    "alternating": ALTERNATING,
}
