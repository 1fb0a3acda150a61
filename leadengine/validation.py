"""What pydantic found wrong with a body or query, as our one refusal with a sentence per field."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from leadengine.errors import ValidationFailed

SAID = {
    "missing": "Campo obrigatório.",
    "extra_forbidden": "Campo desconhecido.",
    "string_type": "Deve ser um texto.",
    "string_too_long": "No máximo {max_length} caracteres.",
    "string_too_short": "No mínimo {min_length} caractere(s).",
    "int_type": "Deve ser um número inteiro.",
    "int_parsing": "Deve ser um número inteiro.",
    "list_type": "Deve ser uma lista.",
    "too_long": "No máximo {max_length} itens.",
    "too_short": "No mínimo {min_length} item(ns).",
    "float_type": "Deve ser um número.",
    "finite_number": "Deve ser um número.",
    "less_than_equal": "No máximo {le}.",
    "greater_than_equal": "No mínimo {ge}.",
    "bool_type": "Deve ser true ou false.",
    "bool_parsing": "Deve ser true ou false.",
    "dict_type": "Deve ser um objeto.",
    "model_type": "Deve ser um objeto.",
    "model_attributes_type": "Deve ser um objeto.",
    "uuid_type": "Deve ser um UUID.",
    "uuid_parsing": "Deve ser um UUID.",
    "literal_error": "Deve ser um de: {expected}.",
    "datetime_type": "Deve ser uma data ISO 8601.",
    "datetime_parsing": "Deve ser uma data ISO 8601.",
    "datetime_from_date_parsing": "Deve ser uma data ISO 8601.",
    "timezone_aware": "A data deve dizer o fuso.",
    "string_pattern_mismatch": "Formato inválido.",
    "value_error": "{error}",
}


def refusal(error: ValidationError) -> ValidationFailed:
    """Every bad field with its path (`a.b.0`) and what is wrong with it, in `details.errors`."""
    return ValidationFailed([_problem(one) for one in error.errors(include_url=False, include_input=False)])


def _problem(one: ErrorDetails) -> dict[str, str]:
    field = ".".join(str(part) for part in one["loc"])
    said = SAID.get(one["type"])
    message = said.format(**one.get("ctx", {})) if said else one["msg"]
    if one["type"] == "value_error":
        # A rule over several fields names the one it is about in front of its sentence.
        name, colon, rest = message.partition(": ")
        if colon and name.isidentifier():
            field, message = f"{field}.{name}".strip("."), rest
    return {"field": field, "message": message}
