#include "format/networks/registry.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "format/networks/umt5.hpp"
#include "format/networks/wan.hpp"
#include "format/networks/wan_dit.hpp"
#include "format/networks/wan_vae.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

std::vector<NetworkKind>& kinds() {
    static std::vector<NetworkKind> list = {
        wan_dit_kind(),
        umt5_kind(),
        wan_vae_kind(),
    };
    return list;
}

std::vector<Architecture>& architecture_list() {
    static std::vector<Architecture> list = {
        wan21_t2v(),
    };
    return list;
}

}  // namespace

const NetworkKind& network_kind(std::string_view name) {
    const auto found = std::find_if(kinds().begin(), kinds().end(),
                                    [&](const NetworkKind& kind) { return kind.name == name; });
    if (found == kinds().end()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("there is no network of kind '{}'", printable(name)));
    }
    return *found;
}

void add_network_kind(NetworkKind kind) {
    kinds().push_back(std::move(kind));
}

void throw_no_row(const Network& network, const char* doing) {
    throw Error(ErrorCode::unsupported,
                fmt::format("networks of the kind '{}' can't be {}", network.kind, doing));
}

const std::vector<Architecture>& architectures() {
    return architecture_list();
}

void add_architecture(Architecture architecture) {
    architecture_list().push_back(std::move(architecture));
}

}  // namespace quantsparse::format
