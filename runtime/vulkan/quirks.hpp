// What drivers get wrong, or do better another way: named flags, set in one place
// (capabilities.cpp), tested by name elsewhere. Each says which driver, which range, and how it was
// seen.
#pragma once

namespace quantsparse::vulkan {

struct Quirks {
    /// A CPU implementation (lavapipe, SwiftShader): many lanes of a work-group run one after
    /// another, so narrow groups and tall register tiles are faster.
    bool runs_on_cpu = false;
};

}  // namespace quantsparse::vulkan
