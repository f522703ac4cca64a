/*
 * test_merge.c - merging iterators against one sorted array, with random changes of direction.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "entry_model.h"
#include <errno.h>

/* A child over a subset of a model's entries. It fails with -EIO at its step number fail_after. */
struct array_iter {
    struct iter base;
    const struct model *m; /* owned array, borrowed contents */
    size_t at;
    size_t fail_after;
    unsigned *alive;
};

static void show(struct array_iter *a)
{
    a->base.status = 0;
    a->base.valid = a->at < a->m->count;
    if (a->fail_after-- == 0) {
        a->base.valid = false;
        a->base.status = -EIO;
    }
    if (!a->base.valid)
        return;
    const struct model_entry *e = &a->m->entries[a->at];
    a->base.key = e->key;
    a->base.value = e->value;
    a->base.value_len = e->value_len;
}

static void array_first(struct iter *it)
{
    struct array_iter *a = (struct array_iter *)it;
    a->at = 0;
    show(a);
}
static void array_last(struct iter *it)
{
    struct array_iter *a = (struct array_iter *)it;
    a->at = a->m->count - 1; /* wraps to the end if empty */
    show(a);
}
static void array_seek(struct iter *it, const uint8_t *key, size_t len, uint64_t seq)
{
    struct array_iter *a = (struct array_iter *)it;
    a->at = model_find(a->m, key, len, seq);
    show(a);
}
static void array_next(struct iter *it)
{
    struct array_iter *a = (struct array_iter *)it;
    assert_true(it->valid);
    a->at++;
    show(a);
}
static void array_prev(struct iter *it)
{
    struct array_iter *a = (struct array_iter *)it;
    assert_true(it->valid);
    a->at--;
    show(a);
}
static void array_free(struct iter *it)
{
    struct array_iter *a = (struct array_iter *)it;
    --*a->alive;
    free(a->m->entries);
    free((void *)a->m);
    free(a);
}
static const struct iter_ops array_ops = {array_first, array_last, array_seek,
                                          array_next,  array_prev, array_free};

/* Deals the entries of m to n children at random. */
static struct iter *deal(const struct model *m, size_t n, unsigned *alive, struct iter **children)
{
    struct iter *out;
    for (size_t c = 0; c < n; c++) {
        struct array_iter *a = calloc(1, sizeof(*a));
        struct model *part = calloc(1, sizeof(*part));
        assert_true(a && part);
        part->entries = calloc(m->count + 1, sizeof(*part->entries));
        assert_non_null(part->entries);
        a->base.ops = &array_ops;
        a->m = part;
        a->fail_after = SIZE_MAX;
        a->alive = alive;
        children[c] = &a->base;
    }
    bool uneven = model_below(2);
    for (size_t i = 0; i < m->count; i++) {
        size_t c = uneven && model_below(20) ? 0 : model_below(n);
        struct model *part = (struct model *)((struct array_iter *)children[c])->m;
        part->entries[part->count++] = m->entries[i];
    }
    *alive = (unsigned)n;
    assert_int_equal(merge_iter_new(children, n, &out), 0);
    return out;
}

static void test_model(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        struct model m = model_make((struct model_options){
            .keys = 1 + model_below(60), .versions = 1 + model_below(5), .key_max = 20, .value_max = 20});
        struct iter *children[40];
        unsigned alive;
        struct iter *it = deal(&m, 1 + model_below(model_below(2) ? 40 : 4), &alive, children);
        model_walk(&m, it, 1000);
        iter_free(it);
        assert_int_equal(alive, 0);
        model_free(&m);
    }
}

static void test_no_children(void **state)
{
    (void)state;
    struct iter *it;
    assert_int_equal(merge_iter_new(NULL, 0, &it), 0);
    iter_first(it);
    assert_true(!it->valid && it->status == 0);
    iter_last(it);
    assert_true(!it->valid && it->status == 0);
    iter_seek(it, (const uint8_t *)"a", 1, SEQ_MAX);
    assert_true(!it->valid && it->status == 0);
    iter_free(it);
}

/* The same entry in several children comes out once for each, and as often on the way back. */
static void test_duplicates(void **state)
{
    (void)state;
    for (int round = 0; round < 100; round++) {
        struct model m = model_make((struct model_options){
            .keys = 1 + model_below(20), .versions = 2, .key_max = 20, .value_max = 9});
        struct model doubled = {calloc(m.count * 3, sizeof(struct model_entry)), 0};
        assert_non_null(doubled.entries);
        for (size_t i = 0; i < m.count; i++)
            for (size_t copies = 1 + model_below(3); copies > 0; copies--)
                doubled.entries[doubled.count++] = m.entries[i];
        /* Equal entries must not meet in one child: deal copy k of an entry to child k. */
        struct iter *children[3], *it;
        unsigned alive = 3;
        for (size_t c = 0; c < 3; c++) {
            struct array_iter *a = calloc(1, sizeof(*a));
            struct model *part = calloc(1, sizeof(*part));
            assert_true(a && part);
            part->entries = calloc(m.count + 1, sizeof(*part->entries));
            assert_non_null(part->entries);
            *a = (struct array_iter){
                .base.ops = &array_ops, .m = part, .fail_after = SIZE_MAX, .alive = &alive};
            children[c] = &a->base;
        }
        for (size_t i = 0, copy = 0; i < doubled.count; i++) {
            copy = i > 0 && ikey_compare(&doubled.entries[i].key, &doubled.entries[i - 1].key) == 0 ? copy + 1
                                                                                                    : 0;
            struct model *part = (struct model *)((struct array_iter *)children[copy])->m;
            part->entries[part->count++] = doubled.entries[i];
        }
        assert_int_equal(merge_iter_new(children, 3, &it), 0);
        model_walk(&doubled, it, 300);
        iter_free(it);
        free(doubled.entries);
        model_free(&m);
    }
}

/* An error of any child at any moment ends the iteration with it; positioning again recovers. */
static void test_child_fails(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct model m =
            model_make((struct model_options){.keys = 20, .versions = 2, .key_max = 20, .value_max = 9});
        struct iter *children[5];
        unsigned alive;
        size_t n = 2 + model_below(4), i = m.count;
        struct iter *it = deal(&m, n, &alive, children);
        struct array_iter *victim = (struct array_iter *)children[model_below(n)];
        victim->fail_after = model_below(20);
        for (int steps = 0; steps < 100 && !it->status; steps++) {
            unsigned how = (unsigned)model_below(3);
            if (!it->valid) {
                iter_first(it);
                i = 0;
            } else if (how) {
                iter_next(it);
                i++;
            } else {
                iter_prev(it);
                i--;
            }
            if (!it->status)
                model_check(&m, it, i);
        }
        if (victim->fail_after > 100) { /* it has struck */
            assert_int_equal(it->status, -EIO);
            assert_false(it->valid);
        }
        victim->fail_after = SIZE_MAX;
        model_walk(&m, it, 50);
        iter_free(it);
        model_free(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_model, model_reseed),
        cmocka_unit_test_setup(test_no_children, model_reseed),
        cmocka_unit_test_setup(test_duplicates, model_reseed),
        cmocka_unit_test_setup(test_child_fails, model_reseed),
    };
    model_start("test_merge");
    return model_end("test_merge", cmocka_run_group_tests(tests, NULL, NULL));
}
