// JSON whose entries stay in the order they were written in, as people read reports.
#pragma once

#include <nlohmann/json.hpp>

namespace quantsparse::bench {

using Json = nlohmann::ordered_json;

}  // namespace quantsparse::bench
