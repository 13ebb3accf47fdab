// Errors that name a field of the API's structs, for users who know flags.
#pragma once

#include <string>

#include "quantsparse/error.hpp"

namespace quantsparse::video {

/// The error's message after the flag that sets the field it is about, if there is one.
std::string message_with_flag(const Error& error);

}  // namespace quantsparse::video
