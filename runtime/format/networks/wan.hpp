// The architectures that Wan's networks make up.
#pragma once

#include "format/architecture.hpp"

namespace quantsparse::format {

Architecture wan21_t2v();

}  // namespace quantsparse::format
