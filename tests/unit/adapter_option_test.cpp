#include <gtest/gtest.h>

#include <fstream>

#include "quantsparse/adapter.hpp"
#include "unit/format_support.hpp"

namespace quantsparse {
namespace {

struct Spelled {
    const char* text;
    const char* file;
    double strength;
    AdapterTarget target;
};

TEST(AdapterFrom, IsReadFromTheRightEnd) {
    using Target = AdapterTarget;
    for (const Spelled& s :
         {Spelled{"a.safetensors", "a.safetensors", 1, Target::both},
          Spelled{"a.safetensors:0.8", "a.safetensors", 0.8, Target::both},
          Spelled{"a.safetensors:-1:high", "a.safetensors", -1, Target::high},
          Spelled{"a.safetensors:low", "a.safetensors", 1, Target::low},
          Spelled{"C:\\l\\a.safetensors", "C:\\l\\a.safetensors", 1, Target::both},
          Spelled{"C:\\l\\a.safetensors:2", "C:\\l\\a.safetensors", 2, Target::both},
          Spelled{"a:b:0.5", "a:b", 0.5, Target::both},
          Spelled{"a:0.8x", "a:0.8x", 1, Target::both}, Spelled{"a:", "a:", 1, Target::both},
          Spelled{":high", ":high", 1, Target::both}}) {
        const Adapter adapter = adapter_from(s.text);
        EXPECT_EQ(adapter.file.string(), s.file) << s.text;
        EXPECT_EQ(adapter.strength, s.strength) << s.text;
        EXPECT_EQ(adapter.target, s.target) << s.text;
    }
}

TEST(AdapterFrom, NameOfAFileIsNothingElse) {
    const format::test::TemporaryFolder folder;
    const std::string name = (folder / "lora:0.5").string();
    std::ofstream(name) << "there";
    EXPECT_EQ(adapter_from(name).file.string(), name);
    EXPECT_EQ(adapter_from(name + ":2").file.string(), name);
    EXPECT_EQ(adapter_from(name + ":2").strength, 2);
}

}  // namespace
}  // namespace quantsparse
