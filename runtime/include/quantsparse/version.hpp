#pragma once

namespace quantsparse {
inline constexpr const char* kVersion = "0.1.0";
}
