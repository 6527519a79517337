#include "common/format/safetensors.h"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsTest() : dir_(absl::StrCat(::testing::TempDir(), "safetensors_", ::getpid())) {
    std::filesystem::create_directories(dir_);
  }
  ~SafetensorsTest() override { std::filesystem::remove_all(dir_); }

  std::string Path(absl::string_view name) const { return absl::StrCat(dir_, "/", name); }

  // A file with this header text and this many zero bytes of data.
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenWith(absl::string_view header,
                                                            size_t data_bytes) {
    const uint64_t length = header.size();
    return OpenBytes(std::string(reinterpret_cast<const char*>(&length), 8) + std::string(header) +
                     std::string(data_bytes, '\0'));
  }
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenBytes(const std::string& bytes) {
    std::ofstream(Path("hostile"), std::ios::binary) << bytes;
    return SafetensorsFile::Open(Path("hostile"));
  }
  void ExpectRefused(absl::string_view header, size_t data_bytes, const std::string& why) {
    EXPECT_THAT(OpenWith(header, data_bytes),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)))
        << header;
  }

  const std::string dir_;
};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream out;
  out << file.rdbuf();
  return out.str();
}

TEST_F(SafetensorsTest, WhatIsWrittenIsReadBack) {
  const std::vector<TensorSpec> specs = {{"a", DType::kF32, {2, 3}},
                                         {"empty", DType::kI64, {0, 4}},
                                         {"b", DType::kU8, {3}},
                                         {"scalar", DType::kI64, {}}};
  auto write = [&](const std::string& path) -> absl::Status {
    ANNEAL_ASSIGN_OR_RETURN(auto writer,
                            SafetensorsWriter::Create(path, specs, {{"version", "1"}}, 64));
    const std::vector<float> a = {1, 2, 3, 4, 5, 6};
    ANNEAL_RETURN_IF_ERROR(writer->Append<float>("a", absl::MakeConstSpan(a).subspan(0, 4)));
    ANNEAL_RETURN_IF_ERROR(writer->Append<float>("a", absl::MakeConstSpan(a).subspan(4)));
    ANNEAL_RETURN_IF_ERROR(writer->Append<uint8_t>("b", {7, 8, 9}));
    ANNEAL_RETURN_IF_ERROR(writer->Append<int64_t>("scalar", {-5}));
    return writer->Finish();
  };
  ANNEAL_ASSERT_OK(write(Path("one")));
  ANNEAL_ASSERT_OK(write(Path("two")));
  EXPECT_EQ(ReadAll(Path("one")), ReadAll(Path("two")));

  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto file, SafetensorsFile::Open(Path("one")));
  EXPECT_EQ(file->metadata().at("version"), "1");
  for (const TensorSpec& spec : specs) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const TensorView* view, file->Find(spec.name));
    EXPECT_EQ(view->dtype, spec.dtype);
    EXPECT_EQ(view->shape, spec.shape);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->bytes.data()) % 64, 0u) << spec.name;
  }
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto a, file->tensors().at("a").Values<float>());
  EXPECT_THAT(a, ::testing::ElementsAre(1, 2, 3, 4, 5, 6));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto scalar, file->tensors().at("scalar").Values<int64_t>());
  EXPECT_THAT(scalar, ::testing::ElementsAre(-5));
  EXPECT_THAT(file->tensors().at("a").Values<int32_t>(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("holds F32, not I32")));
  EXPECT_THAT(file->Find("c"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no tensor \"c\"")));
}

TEST_F(SafetensorsTest, AnUnfinishedFileIsNotFinished) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto writer, SafetensorsWriter::Create(Path("half"), {{"a", DType::kF32, {2}}}, {}));
  ANNEAL_ASSERT_OK(writer->Append<float>("a", {1.0f}));
  EXPECT_THAT(writer->Finish(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("\"a\" lacks 4 bytes")));
  EXPECT_THAT(SafetensorsFile::Open(Path("half")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cut short")));
}

TEST_F(SafetensorsTest, RefusesBrokenFraming) {
  EXPECT_THAT(SafetensorsFile::Open(Path("absent")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(SafetensorsFile::Open(dir_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
  EXPECT_THAT(OpenBytes("1234"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no safetensors header")));
  EXPECT_THAT(OpenBytes(std::string(8, '\xff')),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("over the limit")));
  EXPECT_THAT(OpenBytes(std::string("\x10\0\0\0\0\0\0\0{}", 10)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cut short")));
  ExpectRefused("", 0, "does not begin with '{'");
  ExpectRefused(" {}", 0, "does not begin with '{'");
  ExpectRefused("{", 0, "not JSON");
  ExpectRefused("{}x", 0, "not JSON");
  ExpectRefused("{\"\xff\":{}}", 0, "not JSON");
  ExpectRefused("{}", 1, "1 bytes follow the last tensor");
  EXPECT_THAT(OpenWith("{}      ", 0), IsOk());
}

TEST_F(SafetensorsTest, RefusesBrokenDescriptions) {
  const auto tensor = [](absl::string_view name, absl::string_view dtype, absl::string_view shape,
                         absl::string_view offsets) {
    return absl::StrCat("\"", name, "\":{\"dtype\":", dtype, ",\"shape\":", shape,
                        ",\"data_offsets\":", offsets, "}");
  };
  const auto one = [&](absl::string_view dtype, absl::string_view shape,
                       absl::string_view offsets) {
    return absl::StrCat("{", tensor("t", dtype, shape, offsets), "}");
  };
  EXPECT_THAT(OpenWith(one("\"F32\"", "[2]", "[0,8]"), 8), IsOk());
  ExpectRefused(one("\"F32\"", "[2]", "[0,8]"), 7, "cut short");
  ExpectRefused(one("\"F32\"", "[2]", "[0,8]"), 9, "1 bytes follow");
  ExpectRefused(one("\"F32\"", "[3]", "[0,8]"), 8,
                "shape [3] of F32 takes 12 bytes but data_offsets span 8");
  ExpectRefused(one("\"F31\"", "[2]", "[0,8]"), 8, "dtype \"F31\" is not supported");
  ExpectRefused(one("7", "[2]", "[0,8]"), 8, "dtype 7 is not supported");
  ExpectRefused(one("\"F32\"", "[-2]", "[0,8]"), 8, "holds -2");
  ExpectRefused(one("\"F32\"", "[2.5]", "[0,8]"), 8, "holds 2.5");
  ExpectRefused(one("\"F32\"", "2", "[0,8]"), 8, "shape is not a list");
  ExpectRefused(one("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8, "overflows");
  ExpectRefused(one("\"F32\"", "[9223372036854775808]", "[0,8]"), 8, "too large");
  ExpectRefused(one("\"F32\"", "[18446744073709551616]", "[0,8]"), 8, "holds");
  ExpectRefused(one("\"F32\"", "[2]", "[8,0]"), 8, "is not [begin, end]");
  ExpectRefused(one("\"F32\"", "[2]", "[0,8,8]"), 8, "is not [begin, end]");
  ExpectRefused(one("\"F32\"", "[2]", "[4,12]"), 12, "a hole");
  ExpectRefused(one("\"F32\"", "[2]", "[18446744073709551608,18446744073709551615]"), 8, "span 7");
  ExpectRefused(one("\"F32\"", "[[[2]]]", "[0,8]"), 8, "nested deeper");
  ExpectRefused("{\"t\":[]}", 0, "not an object");
  ExpectRefused("{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets is missing");
  ExpectRefused("{\"t\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"x\":1}}", 4,
                "unknown key \"x\"");
  ExpectRefused(absl::StrCat("{", tensor("a", "\"U8\"", "[4]", "[0,4]"), ",",
                             tensor("b", "\"U8\"", "[4]", "[3,7]"), "}"),
                7, "tensor \"b\" begins at 3 where 4 was expected: an overlap");
  ExpectRefused(absl::StrCat("{", tensor("a", "\"U8\"", "[4]", "[0,4]"), ",",
                             tensor("a", "\"U8\"", "[4]", "[4,8]"), "}"),
                8, "occurs twice");
  ExpectRefused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__.a is not a string");
  ExpectRefused("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
}

TEST_F(SafetensorsTest, ReadsAHeaderOfManyTensorsInTime) {
  // Quadratic handling of 100,000 names would take minutes.
  std::string header = "{";
  constexpr int kCount = 100'000;
  for (int i = 0; i < kCount; ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"t", i,
                    "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[", i, ",", i + 1, "]}");
  }
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto file, OpenWith(header + "}", kCount));
  EXPECT_EQ(file->tensors().size(), size_t{kCount});
}

TEST_F(SafetensorsTest, UnalignedValuesAreNotHandedOut) {
  std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  header.append(-header.size() % 8, ' ');
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto file, OpenWith(header, 5));
  EXPECT_THAT(file->tensors().at("b").Values<float>(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("multiple of 4 bytes")));
}

}  // namespace
}  // namespace anneal
