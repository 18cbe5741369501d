// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/routing_options.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/number.h"
#include "base/spelling.h"
#include "routing/method.h"

namespace moe_mobile {
namespace {

[[noreturn]] void refuse(const std::string& text, const std::string& part, const std::string& why,
                         const std::string& remedy) {
  throw Error(ErrorCode::kUsage, Setting{"routing"},
              "in " + in_quotes(text) + ", " + in_quotes(part) + " " + why, remedy);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::string all_forms() {
  std::string forms = "Choose one of: ";
  for (const MethodInfo* method : routing_methods()) forms += std::string(method->form) + "; ";
  return forms +
         "then ,J=N (always select the N best) or ,first=N (layers before N stay exact), "
         "and +drop-cold:F";
}

const MethodInfo* find_method(const std::string& name) {
  for (const MethodInfo* method : routing_methods())
    if (name == method->name) return method;
  return nullptr;
}

void parse_method(const std::string& text, const std::string& part, RoutingOptions* options) {
  const size_t colon = part.find(':');
  options->method = find_method(part.substr(0, colon));
  if (options->method == nullptr) {
    std::vector<std::string> names;
    for (const MethodInfo* method : routing_methods()) names.emplace_back(method->name);
    refuse(text, part, "is not a routing method",
           did_you_mean(part.substr(0, colon), names, all_forms()));
  }
  const MethodInfo& method = *options->method;
  const std::string use = std::string("Write ") + method.form;
  if ((colon != std::string::npos) != (method.accepts != nullptr))
    refuse(text, part, "has a missing or an extra value", use);
  if (method.accepts == nullptr) return;
  const std::string value = part.substr(colon + 1);
  if (value == "auto" && method.automatic != nullptr) {
    options->automatic = true;
    return;
  }
  const std::optional<double> number = parse_number(value);
  if (!number || !method.accepts(*number)) refuse(text, part, "has an invalid value", use);
  options->value = *number;
}

uint32_t parse_count(const std::string& text, const std::string& part, const std::string& value) {
  const std::optional<double> number = parse_number(value);
  if (!number || *number != std::floor(*number) || *number > 1e6)
    refuse(text, part, "needs a whole number of 0 or more", all_forms());
  return static_cast<uint32_t>(*number);
}

void parse_option(const std::string& text, const std::string& part, RoutingOptions* options,
                  bool* has_first) {
  const size_t equals = part.find('=');
  const std::string name = part.substr(0, equals);
  const std::string value = equals == std::string::npos ? "" : part.substr(equals + 1);
  if (name == "J" && options->method->make != nullptr && !options->guaranteed) {
    options->guaranteed = parse_count(text, part, value);
  } else if (name == "first" && !*has_first) {
    options->first = parse_count(text, part, value);
    *has_first = true;
  } else {
    refuse(text, part, "is unknown, given twice, or not an option of this method", all_forms());
  }
}

void make_exact(RoutingOptions* options) {
  RoutingOptions exact;
  exact.first = options->first;
  exact.drop_cold = options->drop_cold;
  *options = exact;
}

}  // namespace

const MethodInfo* exact_method() { return routing_methods()[0]; }

bool ResolvedRouting::lossy() const {
  return options.method->make != nullptr || options.drop_cold > 0;
}

RoutingOptions parse_routing(const std::string& text) {
  RoutingOptions options;
  const std::vector<std::string> terms = split(text, '+');
  const std::vector<std::string> parts = split(terms[0], ',');
  parse_method(text, parts[0], &options);
  bool has_first = false;
  for (size_t i = 1; i < parts.size(); ++i) parse_option(text, parts[i], &options, &has_first);
  for (size_t i = 1; i < terms.size(); ++i) {
    const std::string& term = terms[i];
    const std::string name = "drop-cold:";
    const bool known = i == 1 && term.compare(0, name.size(), name) == 0;
    const std::optional<double> number =
        known ? parse_number(term.substr(name.size())) : std::nullopt;
    if (!number)
      refuse(text, term, "cannot follow a method",
             "Write at most one +drop-cold:F, with an F of 0 or more, as in exact+drop-cold:0.75");
    options.drop_cold = *number;
  }
  return options;
}

std::string to_text(const RoutingOptions& options) {
  std::string text = options.method->name;
  if (options.method->accepts != nullptr)
    text += ":" + (options.automatic ? "auto" : number_text(options.value));
  if (options.guaranteed) text += ",J=" + std::to_string(*options.guaranteed);
  if (options.first > 0) text += ",first=" + std::to_string(options.first);
  if (options.drop_cold > 0) text += "+drop-cold:" + number_text(options.drop_cold);
  return text;
}

ResolvedRouting resolve_routing(const RoutingOptions& options, const RouterSpec& spec,
                                uint32_t layers_end, double capacity_per_layer) {
  ResolvedRouting resolved;
  RoutingOptions& settled = resolved.options;
  settled = options;
  if (options.method->make != nullptr) {
    const uint32_t usual = spec.top_k <= 2 ? 1 : 2;
    settled.guaranteed = options.guaranteed.value_or(usual);
    if (*settled.guaranteed > spec.top_k)
      throw Error(ErrorCode::kUsage, Setting{"routing"},
                  "J=" + std::to_string(*settled.guaranteed) + " of " + std::to_string(spec.top_k) +
                      " selected experts cannot be guaranteed",
                  "Give a J of at most " + std::to_string(spec.top_k));
    if (*settled.guaranteed == spec.top_k) {
      resolved.note = std::string(options.method->name) +
                      " is off: J=" + std::to_string(spec.top_k) +
                      " guarantees all experts of exact routing";
      make_exact(&settled);
    }
  }
  if (settled.first >= layers_end && resolved.lossy()) {
    resolved.note = "routing is exact: first=" + std::to_string(settled.first) +
                    " leaves no layer to anything else";
    make_exact(&settled);
    settled.drop_cold = 0;
  }
  if (settled.first >= layers_end) settled.first = 0;
  if (settled.automatic) {
    MethodSettings settings;
    settings.num_experts = spec.num_experts;
    settings.top_k = spec.top_k;
    settings.capacity = capacity_per_layer;
    settled.value = settled.method->automatic(settings);
    settled.automatic = false;
  }
  resolved.text = to_text(settled);
  return resolved;
}

}  // namespace moe_mobile
