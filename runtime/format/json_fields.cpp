#include "format/json_fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "format/file_kind.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {

using nlohmann::json;

void reject(const std::string& where, const std::string& what) {
    throw Error(ErrorCode::bad_file, fmt::format("'{}': {}", where, what));
}

json parse_json_object(const std::string& text, const std::string& where) {
    json object = json::parse(text, nullptr, false);
    if (!object.is_object()) {
        const auto what = what_it_is(std::as_bytes(std::span(text)));
        if (!what.empty() && !text.starts_with('{')) {
            throw Error(ErrorCode::bad_file, fmt::format("'{}' {}", where, what));
        }
        reject(where, "it is not a JSON object; the file is damaged");
    }
    return object;
}

std::string value_text(const json& value) {
    const auto nested = [](const json& part) { return part.is_structured(); };
    if (value.is_object() ||
        (value.is_array() && std::any_of(value.begin(), value.end(), nested))) {
        return value.is_object() ? "{...}" : "[...]";  // dump() would recurse
    }
    return printable(value.dump());
}

const json* find_field(const json& object, std::initializer_list<const char*> keys) {
    for (const char* key : keys) {
        const auto position = object.find(key);
        if (position != object.end() && !position->is_null()) {
            return &*position;
        }
    }
    return nullptr;
}

int checked_integer(const json& value, const char* key, int lowest, int highest,
                    const std::string& where) {
    if (!value.is_number_integer() || value < lowest || value > highest) {
        reject(where, fmt::format("{} is {} where an integer from {} to {} is needed", key,
                                  value_text(value), lowest, highest));
    }
    return value.get<int>();
}

int integer(const json& object, std::initializer_list<const char*> keys, const std::string& where,
            int fallback, int lowest, int highest) {
    const json* value = find_field(object, keys);
    if (value == nullptr) {
        if (fallback < 0) {
            reject(where, fmt::format("the configuration lacks {}", *keys.begin()));
        }
        return fallback;
    }
    return checked_integer(*value, *keys.begin(), lowest, highest, where);
}

bool boolean(const json& object, const char* key, bool fallback, const std::string& where) {
    const json* value = find_field(object, {key});
    if (value == nullptr) {
        return fallback;
    }
    if (!value->is_boolean()) {
        reject(where, fmt::format("{} must be true or false", key));
    }
    return value->get<bool>();
}

std::vector<float> floats(const json& object, const char* key, const std::string& where) {
    const json* value = find_field(object, {key});
    std::vector<float> result;
    if (value == nullptr) {
        return result;
    }
    if (!value->is_array()) {
        reject(where, fmt::format("{} must be a list of numbers", key));
    }
    for (const auto& entry : *value) {
        if (!entry.is_number() || !std::isfinite(entry.get<float>())) {
            reject(where, fmt::format("{} must be a list of finite numbers", key));
        }
        result.push_back(entry.get<float>());
    }
    return result;
}

void check_class(const json& object, std::initializer_list<const char*> known,
                 const std::string& where) {
    const json* name = find_field(object, {"_class_name"});
    if (name == nullptr) {
        return;
    }
    for (const char* candidate : known) {
        if (*name == candidate) {
            return;
        }
    }
    throw Error(ErrorCode::unsupported,
                fmt::format("'{}' describes {}, an unknown architecture; this version runs Wan2.1 "
                            "text-to-video",
                            where, value_text(*name)));
}

double number_or(const json& object, const char* key, double fallback, double lowest,
                 double highest, const std::string& where) {
    const json* value = find_field(object, {key});
    if (value == nullptr) {
        return fallback;
    }
    if (!value->is_number() || !(value->get<double>() >= lowest) ||
        !(value->get<double>() <= highest)) {
        reject(where, fmt::format("{} is {} where a number from {} to {} is needed", key,
                                  value_text(*value), lowest, highest));
    }
    return value->get<double>();
}

}  // namespace quantsparse::format
