// SPDX-License-Identifier: MIT
#include <attune/train/dpo_trainer.hpp>

#include "support/allocations.hpp"
#include "support/small_world.hpp"

#include <attune/model/frozen.hpp>
#include <attune/train/adamw.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

using namespace attune;
using attune::test::token_list;

namespace {

using named_values = std::map<std::string, double>;

named_values metrics_of(report const& r) {
  named_values out;
  for (metric const& m : r.metrics) out[std::string(m.name)] = m.value;
  return out;
}

template <class T>
std::vector<T> values(tabular_policy<T>& policy) {
  auto const p = policy.parameters();
  return {p[0].value.begin(), p[0].value.end()};
}

template <class R>
concept trainable_against = requires(tabular_policy<float>& p, R&& r, adamw<float>& o) { dpo_trainer(p, std::forward<R>(r), o, {}); };

}  // namespace

static_assert(trainable_against<frozen<tabular_policy<float>> const&>);
static_assert(trainable_against<reference_cache&>);
static_assert(!trainable_against<frozen<tabular_policy<float>>>, "a temporary would dangle");

TEST_CASE_TEMPLATE("dpo trainer: the first loss is log 2, the first accuracy 0", T, float, double) {
  auto policy = test::random_tabular<T>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  adamw<T> optimizer;
  dpo_trainer trainer{policy, reference, optimizer, {.loop = {.max_steps = 1, .batch_size = 64}}};
  named_values first;
  auto const summary = trainer.fit(test::random_pairs(50, 6, 2), [&](report const& r) {
    if (r.kind == report_kind::log) first = metrics_of(r);
  });
  CHECK(summary.first_loss == doctest::Approx(std::numbers::ln2).epsilon(sizeof(T) == 8 ? 1e-15 : 1e-7));
  CHECK(first.at("rewards/accuracies") == 0.0);
  CHECK(first.at("rewards/margins") == 0.0);
}

TEST_CASE("dpo trainer: it reaches the closed-form optimum pi_ref exp(r / beta) / Z") {
  // Rewards r = log w: then chosen a over b with probability w_a / (w_a + w_b), which whole numbers of pairs express
  // exactly, and the optimum is pi_ref w^(1/beta) / Z.
  std::vector<int> const w{1, 2, 3, 6};
  double const beta = 0.5;
  test::pair_list pairs;
  for (token_id prompt = 0; prompt < 2; ++prompt)
    for (token_id a = 0; a < 4; ++a)
      for (token_id b = 0; b < 4; ++b)
        for (int copy = 0; a != b && copy < w[static_cast<std::size_t>(a)]; ++copy) pairs.rows.push_back({{prompt}, {a}, {b}, 0.0});
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 3);
  frozen const reference{policy};
  adamw<double> optimizer;
  dpo_trainer trainer{policy, reference, optimizer,
                      {.loop = {.learning_rate = 0.05, .schedule = learning_rate_schedule::cosine, .max_steps = 1200,
                                .batch_size = pairs.size(), .max_grad_norm = 100.0, .logging_steps = 400},
                       .losses = dpo_options{.beta = beta}}};
  auto const summary = trainer.fit(pairs);
  CHECK(summary.last_loss < summary.first_loss);
  for (token_id prompt = 0; prompt < 2; ++prompt) {
    sequences s;
    for (token_id a = 0; a < 4; ++a) s.push_back(token_list{prompt}, token_list{a});
    std::vector<double> before(8), after(8), target(4);
    reference.log_probs(s, before);
    policy.log_probs(s, after);
    double z = 0.0, distance = 0.0, moved = 0.0;
    for (std::size_t a = 0; a < 4; ++a) z += target[a] = std::exp(before[2 * a + 1]) * std::pow(w[a], 1.0 / beta);
    for (std::size_t a = 0; a < 4; ++a) {
      distance += 0.5 * std::abs(std::exp(after[2 * a + 1]) - target[a] / z);
      moved += 0.5 * std::abs(std::exp(after[2 * a + 1]) - std::exp(before[2 * a + 1]));
    }
    CHECK(distance <= 1e-4);
    CHECK(moved > 0.1);
  }
}

TEST_CASE("dpo trainer: micro-batches of any size give the full batch's run, the partial last step included") {
  auto const pairs = test::random_pairs(23, 6, 2);
  std::vector<double> whole;
  for (std::size_t const budget : {0u, 1u, 40u}) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    frozen const reference{policy};
    adamw<double> optimizer;
    dpo_trainer trainer{policy, reference, optimizer,
                        {.loop = {.learning_rate = 0.05, .epochs = 2, .batch_size = 5, .micro_batch_tokens = budget}}};
    CHECK(trainer.fit(pairs).steps == 10);
    if (budget == 0) whole = values(policy);
    double worst = 0.0;
    for (std::size_t i = 0; i < whole.size(); ++i) worst = std::max(worst, std::abs(values(policy)[i] - whole[i]));
    CHECK(worst <= 1e-12);
  }
}

TEST_CASE("dpo trainer: a cached reference trains the very bits that the model itself does") {
  auto const pairs = test::random_pairs(23, 6, 2), held_out = test::random_pairs(9, 6, 4);
  dpo_trainer_options const options{.loop = {.learning_rate = 0.05, .epochs = 2, .batch_size = 5, .micro_batch_tokens = 60}};
  auto a = test::random_tabular<float>({.vocabulary = 6}, 1), b = a;
  frozen const reference{a};
  reference_cache const cache = cached_reference("", b, pairs, held_out);
  adamw<float> first, second;
  dpo_trainer with_model{a, reference, first, options};
  dpo_trainer with_cache{b, cache, second, options};
  auto const x = with_model.fit(pairs, held_out), y = with_cache.fit(pairs, held_out);
  CHECK(values(a) == values(b));
  REQUIRE(x.evaluation.size() == 7);
  for (std::size_t i = 0; i < 7; ++i) {
    CHECK(x.evaluation[i].name == y.evaluation[i].name);
    CHECK(x.evaluation[i].value == y.evaluation[i].value);
  }
  CHECK(x.evaluation[0].name == "eval_loss");
  CHECK(x.evaluation[3].name == "eval_rewards/accuracies");
}

TEST_CASE("dpo trainer: a cache made for other data is refused before the first step") {
  auto const pairs = test::random_pairs(5, 6, 2), other = test::random_pairs(5, 6, 3);
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  reference_cache const cache = cached_reference("", policy, pairs);
  adamw<float> optimizer;
  dpo_trainer trainer{policy, cache, optimizer, {}};
  CHECK_THROWS_AS(trainer.fit(other), contract_violation);
  CHECK_THROWS_AS(trainer.fit(pairs, other), contract_violation);
  CHECK(optimizer.steps() == 0);
}

TEST_CASE("dpo trainer: the metrics are TRL's, by their definitions") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  auto const pairs = test::random_pairs(11, 6, 2);
  double const beta = 0.3;
  named_values expected;
  double const share = 1.0 / 11.0;
  for (auto const& row : pairs.rows) {
    auto const logp = [&](auto const& model, token_list const& response) {
      sequences s;
      s.push_back(row.prompt, response);
      std::vector<double> logps(s.total_tokens());
      model.log_probs(s, logps);
      double sum = 0.0;
      for (double const l : logps) sum += l;
      return sum;
    };
    double const chosen = logp(policy, row.chosen), rejected = logp(policy, row.rejected);
    double const r_w = beta * (chosen - logp(reference, row.chosen)), r_l = beta * (rejected - logp(reference, row.rejected));
    expected["rewards/chosen"] += share * r_w;
    expected["rewards/rejected"] += share * r_l;
    expected["rewards/accuracies"] += r_w > r_l ? share : 0.0;
    expected["rewards/margins"] += share * (r_w - r_l);
    expected["logps/chosen"] += share * chosen;
    expected["logps/rejected"] += share * rejected;
    double const nll = -chosen / static_cast<double>(row.chosen.size());
    expected["nll_loss"] += share * nll;
    expected["loss"] += share * (std::log1p(std::exp(-(r_w - r_l))) + 0.2 * nll);
  }
  adamw<double> optimizer;
  dpo_trainer trainer{policy, reference, optimizer,
                      {.loop = {.max_steps = 1, .batch_size = 11, .micro_batch_tokens = 30},
                       .losses = {{dpo_options{.beta = beta}, 1.0}, {sft_term_options{sft_normalization::sequence}, 0.2}},
                       .require_reference_equals_policy = false}};
  named_values logged;
  trainer.fit(pairs, [&](report const& r) {
    if (r.kind == report_kind::log) logged = metrics_of(r);
  });
  for (auto const& [name, value] : expected) CHECK(logged.at(name) == doctest::Approx(value).epsilon(1e-13));
  CHECK(logged.size() == expected.size() + 3);  // grad_norm, learning_rate, num_tokens
}

TEST_CASE("dpo trainer: a reference that is not the policy is refused with the pair and the way out") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  auto const before = values(policy);
  auto const reference = test::random_tabular<float>({.vocabulary = 6}, 2);
  adamw<float> optimizer;
  auto const fit = [&](bool require) {
    dpo_trainer trainer{policy, reference, optimizer, {.require_reference_equals_policy = require}};
    trainer.fit(test::random_pairs(4, 6, 2));
  };
  std::string why;
  try {
    fit(true);
  } catch (contract_violation const& e) {
    why = e.what();
  }
  CHECK(why.find("would not start at ln 2: pair ") != std::string::npos);
  CHECK(why.find("require_reference_equals_policy = false") != std::string::npos);
  CHECK(values(policy) == before);
  CHECK_NOTHROW(fit(false));
}

TEST_CASE("dpo trainer: a reference that differs by little is found too, one off by rounding is not") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  auto const pairs = test::random_pairs(40, 6, 2);
  adamw<float> optimizer;
  auto const fit_against = [&](float change) {
    auto model = policy;
    auto reference = policy;
    for (auto const& p : reference.parameters())
      for (std::size_t i = 0; i < p.value.size(); ++i) p.value[i] *= i % 2 == 0 ? 1.0f + change : 1.0f;
    adamw<float> fresh;
    dpo_trainer trainer{model, reference, fresh, {}};
    trainer.fit(pairs);
  };
  CHECK_THROWS_AS(fit_against(1e-2f), contract_violation);
  CHECK_NOTHROW(fit_against(2e-7f));
}

TEST_CASE("dpo trainer: the policy cannot be its own reference") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  adamw<float> optimizer;
  CHECK_THROWS_AS(dpo_trainer(policy, policy, optimizer, dpo_trainer_options{}), contract_violation);
}

TEST_CASE("dpo trainer: steps allocate nothing once the buffers have grown, with a model and with a cache") {
  test::pair_list pairs;
  random_stream random(1);
  auto const token = [&] { return static_cast<token_id>(random.below(6)); };
  for (int i = 0; i < 48; ++i) pairs.rows.push_back({{token(), token()}, {token(), token(), token()}, {token(), token()}, 0.0});
  auto const count = [&](auto& policy, auto const& reference) {
    adamw<float> optimizer;
    std::vector<std::size_t> counts;
    counts.reserve(64);
    dpo_trainer trainer{policy, reference, optimizer, {.loop = {.epochs = 2, .batch_size = 8, .micro_batch_tokens = 30}}};
    trainer.fit(pairs, [&](report const& r) {
      if (r.kind == report_kind::progress || r.kind == report_kind::log) counts.push_back(allocations());
    });
    return counts;
  };
  auto a = test::random_tabular<float>({.vocabulary = 6}, 1), b = a;
  for (auto const& counts : {count(a, frozen{a}), count(b, cached_reference("", b, pairs))}) {
    REQUIRE(counts.size() == 12);
    for (std::size_t i = 1; i < counts.size(); ++i) CHECK(counts[i] == counts[0]);
  }
}

TEST_CASE("dpo trainer: bad options are refused at construction") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  adamw<float> optimizer;
  auto const make = [&](dpo_trainer_options o) { dpo_trainer(policy, reference, optimizer, o); };
  CHECK_THROWS_AS(make({.losses = dpo_options{.beta = 0.0}}), contract_violation);
  CHECK_THROWS_AS(make({.losses = dpo_options{.label_smoothing = 0.7}}), contract_violation);
  CHECK_THROWS_AS(make({.loop = {.batch_size = 0}}), contract_violation);
}

TEST_CASE("dpo trainer: equal chosen and rejected teach nothing and harm nothing") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const before = values(policy);
  frozen const reference{policy};
  adamw<double> optimizer;
  dpo_trainer trainer{policy, reference, optimizer, {.loop = {.learning_rate = 0.1, .epochs = 3}}};
  auto const summary = trainer.fit(test::pair_list{{{{0}, {1, 2}, {1, 2}}}});
  CHECK(summary.last_loss == doctest::Approx(std::numbers::ln2));
  CHECK(values(policy) == before);
}

TEST_CASE("dpo trainer: a loss with a reference needs one, and one without refuses to ignore it") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  no_reference const none;
  adamw<float> optimizer;
  auto const pairs = test::random_pairs(8, 6, 2);
  auto const fit = [&](auto const& r, pair_loss_sum losses) {
    dpo_trainer trainer{policy, r, optimizer, dpo_trainer_options{.loop = {.max_steps = 1}, .losses = std::move(losses)}};
    trainer.fit(pairs);
  };
  CHECK_THROWS_WITH_AS(fit(none, hinge_options{}), doctest::Contains("a reference: dpo_trainer_options.losses has one"),
                       contract_violation);
  CHECK_THROWS_WITH_AS(fit(reference, simpo_options{}), doctest::Contains("no loss of dpo_trainer_options.losses would read"),
                       contract_violation);
  CHECK_NOTHROW(fit(reference, {{ipo_options{}, 1.0}, {sft_term_options{}, 0.1}}));  // first: it moves the policy
  CHECK_NOTHROW(fit(none, simpo_options{}));
}

TEST_CASE("dpo trainer: every pairwise loss lowers itself, and how a step is cut changes rounding alone") {
  auto const pairs = test::random_pairs(24, 6, 2);
  for (named_pair_loss const& one : named_pair_losses()) {
    CAPTURE(one.name);
    bool const sorts = std::holds_alternative<aot_options>(one.loss);
    auto const fit = [&](auto const& make_reference, std::size_t micro_batch_tokens, double& first, double& last) {
      auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
      auto const reference = make_reference(policy);
      adamw<double> optimizer;
      dpo_trainer trainer{policy, reference, optimizer,
                          dpo_trainer_options{.loop = {.learning_rate = 1e-2, .max_steps = 6, .batch_size = 24,
                                                       .micro_batch_tokens = micro_batch_tokens},
                                              .losses = {{one.loss, 1.0}}, .ld_alpha = 0.7}};
      auto const summary = trainer.fit(pairs);
      first = summary.first_loss;
      last = summary.last_loss;
      return values(policy);
    };
    auto const both = [&](auto const& make_reference) {
      double first = 0.0, last = 0.0, again = 0.0;
      auto const whole = fit(make_reference, 0, first, last);
      CHECK(last < first);
      if (sorts) {
        CHECK_THROWS_WITH_AS(fit(make_reference, 40, first, last), doctest::Contains("the pairs of a step in one batch"),
                             contract_violation);
        return;
      }
      auto const cut = fit(make_reference, 40, first, again);
      CHECK(again == doctest::Approx(last).epsilon(1e-12));
      for (std::size_t i = 0; i < whole.size(); ++i) CHECK(cut[i] == doctest::Approx(whole[i]).epsilon(1e-9));
    };
    if (inputs_of({.losses = {{one.loss, 1.0}}}).reference) {
      both([](auto& policy) { return frozen(policy); });
      both([&](auto& policy) { return cached_reference("", policy, pairs); });
    } else {
      both([](auto&) { return no_reference{}; });
    }
  }
}
