// Linear assignment of one problem by a team of threads: shortest augmenting paths with potentials
// (Jonker and Volgenant, 1987), the members sharing every scan over the rows. One CPU thread is a
// team, and so is a warp of a GPU: one algorithm, and the same answer to the bit from both.
//
// A Team has the static functions
//     int member(), size()     which thread this is, of how many
//     void sync()              what members wrote before is seen by all after
//     bool all(bool)           whether it holds for every member
//     Nearest least(Nearest)   the least distance of all members; of equals the lower row
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "sdst.h"

namespace sdst {

// Rows and columns count from 1; row 0 is where every augmenting path begins.
struct Workspace {
    double *row_potential, *column_potential, *distance;
    int *column_of_row, *previous, *visited;
};

constexpr size_t workspace_bytes(int rows, int columns) {
    return (2 * (rows + 1) + columns + 1) * sizeof(double) + 3 * (rows + 1) * sizeof(int);
}

SDST_DEVICE inline Workspace carve(double* memory, int rows, int columns) {
    Workspace w;
    w.row_potential = memory;
    w.distance = w.row_potential + rows + 1;
    w.column_potential = w.distance + rows + 1;
    w.column_of_row = reinterpret_cast<int*>(w.column_potential + columns + 1);
    w.previous = w.column_of_row + rows + 1;
    w.visited = w.previous + rows + 1;
    return w;
}

struct Nearest {
    double distance;
    int row;
};

template <class Team>
SDST_DEVICE bool all_finite(const float* cost, int rows, int columns, int valid) {
    bool finite = true;
    for (int r = Team::member(); r < rows; r += Team::size())
        for (int c = 0; c < valid; ++c)
            finite &= std::fabs(cost[r * static_cast<int64_t>(columns) + c]) < INFINITY;
    return Team::all(finite);
}

// Relaxes every unvisited row from `row` and gives the nearest.
template <class Team>
SDST_DEVICE Nearest scan(const Workspace& w, const float* cost, int rows, int columns, int row) {
    const int column = w.column_of_row[row];
    Nearest nearest{INFINITY, rows + 1};
    for (int r = 1 + Team::member(); r <= rows; r += Team::size()) {
        if (w.visited[r]) continue;
        const double reduced = cost[(r - 1) * static_cast<int64_t>(columns) + column - 1] -
                               w.column_potential[column] - w.row_potential[r];
        if (reduced < w.distance[r]) {
            w.distance[r] = reduced;
            w.previous[r] = row;
        }
        if (w.distance[r] < nearest.distance) nearest = {w.distance[r], r};
    }
    return Team::least(nearest);
}

// Gives `column` a row, moving others along the shortest augmenting path. With finite costs and no
// more columns than rows there always is one.
template <class Team>
SDST_DEVICE void augment(const Workspace& w, const float* cost, int rows, int columns, int column) {
    for (int r = Team::member(); r <= rows; r += Team::size()) {
        w.distance[r] = INFINITY;
        w.visited[r] = 0;
    }
    if (Team::member() == 0) w.column_of_row[0] = column;
    Team::sync();
    int row = 0;
    for (bool taken = true; taken;) {
        if (Team::member() == 0) w.visited[row] = 1;
        Team::sync();
        const Nearest nearest = scan<Team>(w, cost, rows, columns, row);
        Team::sync();
        for (int r = Team::member(); r <= rows; r += Team::size()) {
            if (w.visited[r]) {
                // Visited rows hold different columns: no two members write the same one.
                w.column_potential[w.column_of_row[r]] += nearest.distance;
                w.row_potential[r] -= nearest.distance;
            } else {
                w.distance[r] -= nearest.distance;
            }
        }
        row = nearest.row;
        // Read by all before the first member rewrites the path below.
        taken = w.column_of_row[row] != 0;
        Team::sync();
    }
    if (Team::member() == 0) {
        while (row != 0) {
            const int before = w.previous[row];
            w.column_of_row[row] = w.column_of_row[before];
            row = before;
        }
    }
    Team::sync();
}

// cost [M, G], M >= G, of which the first `size` columns are valid; out [G] the row of every valid
// column and -1 beyond, or -1 throughout if a valid cost is not finite.
template <class Team>
SDST_DEVICE void assign(double* memory, const float* cost, int64_t size, int rows, int columns,
                        int64_t* out) {
    const Workspace w = carve(memory, rows, columns);
    const int valid = size < columns ? static_cast<int>(size < 0 ? 0 : size) : columns;
    for (int r = Team::member(); r <= rows; r += Team::size())
        w.row_potential[r] = w.column_of_row[r] = 0;
    for (int c = Team::member(); c <= columns; c += Team::size()) w.column_potential[c] = 0;
    for (int c = Team::member(); c < columns; c += Team::size()) out[c] = -1;
    Team::sync();
    if (!all_finite<Team>(cost, rows, columns, valid)) return;
    for (int column = 1; column <= valid; ++column) augment<Team>(w, cost, rows, columns, column);
    for (int r = 1 + Team::member(); r <= rows; r += Team::size())
        if (w.column_of_row[r] != 0) out[w.column_of_row[r] - 1] = r - 1;
}

}  // namespace sdst
