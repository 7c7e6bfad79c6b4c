FROM node:24-slim
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080 TASKLANE_DATA_DIR=/var/lib/tasklane
WORKDIR /app
COPY package.json package-lock.json ./
COPY scripts/node scripts/node
# The image brings its own Node, so the one that npm installs for machines with an older Node would only weigh.
RUN npm ci --omit=dev --no-audit --no-fund \
  && rm -rf node_modules/node-linux-* node_modules/.bin/node \
  && npm cache clean --force \
  && mkdir -p /var/lib/tasklane \
  && chown node:node /var/lib/tasklane
COPY . .
# So that `docker run IMAGE tasklane worker …` and `docker exec CONTAINER tasklane …` do what they say.
RUN ln -s /app/client/tasklane.js /usr/local/bin/tasklane
USER node
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "--max-semi-space-size=16", "server/main.ts"]
