#include "common/format/json.h"

#include <sys/stat.h>

#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/json_file.h"

namespace anneal {
namespace {

// nlohmann and we quote what was read, which may be megabytes of somebody's data: enough of it to
// find the place, not more.
std::string WithShortQuotes(std::string why) {
  constexpr size_t kShown = 30;  // at each end
  const auto starts_character = [&](size_t at) {
    return (static_cast<unsigned char>(why[at]) & 0xC0) != 0x80;
  };
  const size_t first = why.find_first_of("'\""), last = why.find_last_of("'\"");
  if (first == std::string::npos || last - first <= 2 * kShown) return why;
  size_t from = first + kShown, to = last - kShown;
  while (!starts_character(from)) --from;
  while (!starts_character(to)) ++to;
  return why.replace(from, to - from, "...");
}

// Builds the value through nlohmann's SAX events so that depth and duplicate keys are checked
// before anything deep is built.
class BoundedReader : public nlohmann::json_sax<Json> {
 public:
  explicit BoundedReader(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(number_integer_t value) override { return Put(value); }
  bool number_unsigned(number_unsigned_t value) override { return Put(value); }
  bool number_float(number_float_t value, const string_t& text) override { return Put(value); }
  bool string(string_t& value) override { return Put(std::move(value)); }
  bool binary(binary_t& value) override { return Fail("binary value"); }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second)
      return Fail(absl::StrCat("key \"", name, "\" occurs twice"));
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    position_ = position;
    // nlohmann's text: "[json.exception.parse_error.101] parse error at line 1, column 2: syntax
    // error ..."
    const std::string what = error.what();
    const size_t colon = what.find(": ");
    return Fail(colon == std::string::npos ? what : what.substr(colon + 2));
  }

  Json TakeRoot() { return std::move(root_); }
  const std::string& failure() const { return failure_; }
  size_t position() const { return position_; }

 private:
  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // key() has refused duplicates; operator[] would search for one, which makes large objects
    // quadratic.
    auto& members = parent.get_ref<Json::object_t&>();
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }
  bool Put(Json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(Json container) {
    if (static_cast<int>(open_.size()) >= max_depth_) {
      return Fail(absl::StrCat("nested deeper than ", max_depth_, " levels"));
    }
    open_.push_back(Place(std::move(container)));
    keys_.emplace_back();
    return true;
  }
  bool Close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }
  bool Fail(std::string why) {
    if (failure_.empty()) failure_ = WithShortQuotes(std::move(why));
    return false;
  }

  const int max_depth_;
  Json root_;
  // Containers under construction. A parent never grows while a child is open, so the pointers stay
  // valid.
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;
  std::string key_;
  std::string failure_;
  size_t position_ = 0;
};

std::string Where(absl::string_view text, size_t position) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i + 1 < position && i < text.size(); ++i) {
    if (text[i] == '\n') {
      ++line;
      column = 1;
    } else {
      ++column;
    }
  }
  return absl::StrCat("line ", line, " column ", column);
}

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "JSON text of ", text.size(), " bytes is over the limit of ", limits.max_bytes));
  }
  BoundedReader reader(limits.max_depth);
  try {
    if (Json::sax_parse(text.begin(), text.end(), &reader)) return reader.TakeRoot();
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON: ", WithShortQuotes(e.what())));
  }
  if (reader.position() > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("not JSON: ", Where(text, reader.position()), ": ", reader.failure()));
  }
  return absl::InvalidArgumentError(absl::StrCat("JSON refused: ", reader.failure()));
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path, const JsonLimits& limits) {
  return ReadJsonFile(path, limits, OpenRegularFile);
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path, const JsonLimits& limits,
                                  const FileOpener& open) {
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd file, open(path));
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path));
  if (static_cast<size_t>(info.st_size) > limits.max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", info.st_size, " bytes is over the limit of ", limits.max_bytes));
  }
  ANNEAL_ASSIGN_OR_RETURN(const std::string text, ReadOpenFile(file.get(), path, limits.max_bytes));
  absl::StatusOr<Json> json = ParseJson(text, limits);
  if (json.ok()) return json;
  // Without what was read: the file may be another than whoever hears of it thinks, and not theirs.
  const absl::string_view why = json.status().message();
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", why.substr(0, why.find("; last read"))));
}

std::string DumpJson(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace anneal
